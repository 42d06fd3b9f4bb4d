"""What this machine has: cores, processor, GPU."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

SLOW_FIRST_USE = (
    "this GPU is newer than MindSpore's kernels, so its driver compiles them at first use: "
    "that takes minutes, once"
)
"""They are made for compute capability 8.6 and below (docs/gpu.md)."""
NEWEST_GPU = 8
"""The major compute capability that MindSpore's kernels are made for."""


def newer_than_kernels() -> bool:
    """Whether the first NVIDIA GPU is newer than MindSpore's kernels; False where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        ).stdout
        return int(answer.split(".")[0]) > NEWEST_GPU
    except (OSError, subprocess.SubprocessError, ValueError):
        return False


VISIBLE = {"GPU": "CUDA_VISIBLE_DEVICES", "Ascend": "ASCEND_RT_VISIBLE_DEVICES"}
"""Variables by which drivers show a process some devices only."""
DEVICE_FILES = {"GPU": "nvidia", "Ascend": "davinci"}


def devices(kind: str, folder: Path = Path("/dev")) -> list[str]:
    """Names of the devices of a kind that this process may use, as its driver's variable takes them.

    Args:
        kind: ``GPU`` or ``Ascend``; there are none of another kind.
        folder: of device files.
    """
    if kind not in VISIBLE:
        return []
    shown = os.environ.get(VISIBLE[kind])
    if shown is not None:
        return [name.strip() for name in shown.split(",") if name.strip() not in ("", "-1")]
    prefix = DEVICE_FILES[kind]
    numbers = [path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}[0-9]*")]
    return sorted((number for number in numbers if number.isdigit()), key=int)


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


def processor() -> str:
    """The processor's name, such as ``AMD EPYC 7763``."""
    return _from_cpuinfo("model name") or platform.processor() or platform.machine()


def processor_features() -> frozenset[str]:
    """What the processor can do, as Linux names it (``avx2``); empty where it does not say."""
    return frozenset(_from_cpuinfo("flags").split())


def _from_cpuinfo(name: str) -> str:
    """What Linux says of the first processor, which psutil does not tell; empty where it says nothing."""
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            found, _, value = line.partition(":")
            if found.strip() == name:
                return value.strip()
    return ""
