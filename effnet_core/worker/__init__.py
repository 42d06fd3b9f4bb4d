"""The process of one rank of a job: reads ``job.json``, leaves ``result.json`` or ``error.json``."""
