"""This project's native CPU kernels; docs/kernels.md tells why they are there.

``choice.py`` says what a run computes with, ``build.py`` makes the library from ``source/``,
``operators.py`` gives it to MindSpore, and ``model/layers.py`` is the only user of that.
"""
