"""Prefect tasks: one retryable side effect each, calling one function of effnet_core."""
