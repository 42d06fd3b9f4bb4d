"""The test suite; run each folder as a pytest process of its own, or all with ``make test``."""
