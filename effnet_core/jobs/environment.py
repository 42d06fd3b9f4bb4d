"""What MindSpore must find in its process's environment before it first runs.

Standard library only, so that every entry path can call it before anything heavy is imported.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

ONEDNN_ISA = "ONEDNN_MAX_CPU_ISA"
ONEDNN_ISA_DEFAULT = "AVX2"
"""On CPUs with AVX-512 the bundled oneDNN falls to its reference convolution for every kernel larger
than 1x1, several times slower (docs/performance.md); below AVX-512 it does not. Other processors
ignore the setting."""

BLOCKING_RUN = "MS_DEV_HOST_BLOCKING_RUN"
"""0: MindSpore computes in a thread of its own, and the one that asked waits in an empty loop. 1: neither."""

GRAPH_CACHE = "MS_COMPILER_CACHE_ENABLE"
"""1: MindSpore takes the graph of an earlier process that had other settings (docs/performance.md)."""


LOG_LEVELS = {"debug": 0, "info": 1, "warning": 2, "error": 3, "critical": 4}
"""MindSpore's own log levels, by the names that ``runtime.mindspore_log`` takes."""


def prepare(environment: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Set what speed depends on, where the user has not set it, and take out what makes results wrong.

    Args:
        environment: changed in place; this process's own by default.

    Returns:
        The same mapping.
    """
    environment = os.environ if environment is None else environment
    environment.setdefault(ONEDNN_ISA, ONEDNN_ISA_DEFAULT)
    environment.pop(GRAPH_CACHE, None)
    return environment


def compute_at_once(environment: MutableMapping[str, str] | None = None) -> None:
    """Let MindSpore compute on CPUs in the thread that asks for it, unless the user says otherwise.

    Otherwise that thread takes a core from those that compute (docs/performance.md). Not for other
    devices, which compute by themselves while operators are queued. Call it before the first operator.
    """
    environment = os.environ if environment is None else environment
    environment.setdefault(BLOCKING_RUN, "1")


def set_log_level(environment: MutableMapping[str, str], level: str) -> None:
    """Let MindSpore print messages of ``level`` and above, unless ``GLOG_v`` is set already."""
    environment.setdefault("GLOG_v", str(LOG_LEVELS[level]))


@contextmanager
def importing() -> Iterator[None]:
    """Import large libraries without a search for garbage meanwhile, or for any of what they made later.

    What MindSpore's or Prefect's import makes lives until the process ends; looking through it again and
    again, and once more at the end, takes a third of a short process's time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
