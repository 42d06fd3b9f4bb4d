"""The service of ``effnet up``: server, daemon, deployments, runs."""
