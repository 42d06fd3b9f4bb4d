"""What a run or a labelling did, as pages."""
