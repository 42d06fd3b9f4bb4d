"""What a run does for a person who names only pictures: facts, decisions, estimates, and the probe."""
