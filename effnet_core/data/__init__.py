"""From staged data sets to batches; ``sources`` is where images come from."""
