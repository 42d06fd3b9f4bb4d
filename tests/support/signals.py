"""Signals and rights of processes that tests start."""

from __future__ import annotations

import ctypes
import signal

_LIBC = ctypes.CDLL(None)
_PR_CAPBSET_DROP = 24
_READS_EVERYTHING = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: why permissions do not bind root."""


def heed_ctrl_c() -> None:
    """Let SIGINT do what it does in a terminal (``preexec_fn``).

    A shell that runs the tests in the background has it ignored, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def as_anybody() -> None:
    """Let permissions bind the process and its children even where root starts it (``preexec_fn``)."""
    for capability in _READS_EVERYTHING:
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
