"""How work runs in child processes."""
