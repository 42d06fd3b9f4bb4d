"""Whether a model can be trusted: compared with another, on its own mistakes, on new pictures."""
