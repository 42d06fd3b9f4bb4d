"""From files to predictions."""
