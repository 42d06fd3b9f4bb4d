"""Hostile files from a seed: what reads them refuses them in a sentence, or takes them, but never breaks."""
