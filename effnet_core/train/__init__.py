"""Training: schedule, optimizer, compiled step and the one loop."""
