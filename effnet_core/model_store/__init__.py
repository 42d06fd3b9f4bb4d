"""The model store: versions that never change, and which of them is in production (``registry.py``)."""
