"""A service under a random hand: ``make chaos``; see docs/reliability.md."""
