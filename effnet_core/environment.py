"""What MindSpore must find in its process's environment before it first runs.

Standard library only, so that every entry path can call it before anything heavy is imported.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import MutableMapping, Sequence

ONEDNN_ISA = "ONEDNN_MAX_CPU_ISA"
ONEDNN_ISA_DEFAULT = "AVX2"
"""On CPUs with AVX-512 the bundled oneDNN falls to its reference convolution for every kernel larger
than 1x1, several times slower (docs/performance.md); below AVX-512 it does not. Other processors
ignore the setting."""

BLOCKING_RUN = "MS_DEV_HOST_BLOCKING_RUN"
"""0: MindSpore computes in a thread of its own, and the one that asked waits in an empty loop. 1: neither."""

GRAPH_CACHE = "MS_COMPILER_CACHE_ENABLE"
"""1: MindSpore takes the graph of an earlier process that had other settings (docs/performance.md)."""

SLOW_FIRST_USE = (
    "this GPU is newer than MindSpore's kernels, so its driver compiles them at first use: "
    "that takes minutes, once"
)
"""They are made for compute capability 8.6 and below (docs/gpu.md)."""
NEWEST_GPU = 8
"""The major compute capability that MindSpore's kernels are made for."""

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


def newer_than_kernels() -> bool:
    """Whether the first NVIDIA GPU is newer than MindSpore's kernels; False where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        ).stdout
        return int(told.split(".")[0]) > NEWEST_GPU
    except (OSError, subprocess.SubprocessError, ValueError):
        return False


def available_cores() -> list[int]:
    """The processors that this process may run on, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores_of_rank(cores: Sequence[int], rank: int, ranks: int) -> list[int]:
    """The share of ``cores`` that belongs to one of ``ranks`` processes on this machine.

    Two processes that fight for the same cores are slower than two that keep to their own; with
    more processes than cores they have to share.
    """
    if ranks > len(cores):
        return [cores[rank % len(cores)]]
    return list(cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks])
