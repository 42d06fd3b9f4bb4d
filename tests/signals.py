"""Signals in processes that tests start."""

from __future__ import annotations

import signal


def heed_ctrl_c() -> None:
    """Let SIGINT do what it does in a terminal (``preexec_fn``).

    A shell that runs the tests in the background has it ignored, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
