"""Charts and pages; knows nothing of runs."""
