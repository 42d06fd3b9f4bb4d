"""Prefect flows: what happens, in which order."""

from flows.foreseen import leave_out_tracebacks

leave_out_tracebacks()
