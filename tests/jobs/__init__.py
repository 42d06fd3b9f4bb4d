"""Whole jobs in child processes."""
