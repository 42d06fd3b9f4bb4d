"""Weights of other publishers: recognised, read without running anything, renamed, fetched.

Nothing here imports MindSpore or torch; every tensor is a numpy array.
"""
