"""Prefect flows: what happens, in which order."""

from flows.logs import leave_out_tracebacks

leave_out_tracebacks()
