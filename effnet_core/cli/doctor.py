"""``effnet doctor``: whether this machine has what the project needs, and what to do where it has not.

``CHECKS`` are the library's checks, in the order of the screen; a caller may give more. A check is a function
that returns findings; it must be quick, and it must not raise.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from effnet_core.errors import EffnetError
from effnet_core.jobs import cuda
from effnet_core.jobs.environment import ONEDNN_ISA, ONEDNN_ISA_DEFAULT
from effnet_core.kernels.choice import describe
from effnet_core.storage.cache import CACHE_VARIABLE, cache_dir
from effnet_core.system.machine import (
    SLOW_FIRST_USE,
    available_cores,
    newer_than_kernels,
    processor_features,
)
from effnet_core.text import human_bytes

DISTRIBUTION = "effnet-flows"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 12)
SHOWN = ("mindspore", "prefect", "onnxruntime", "openvino", "numpy", "pillow")
"""Packages whose versions are shown; all that the project needs are compared with what it asks for."""
INSTEAD = {"onnxruntime": ("onnxruntime-gpu",)}
"""Packages that hold all that another one does."""
ISA_LEVELS = ("SSE41", "AVX", "AVX2")
"""Values of oneDNN's setting that stay below AVX-512."""
LEAST_MEMORY = 2e9
LEAST_DISK = 2e9
DEVICE_TIMEOUT_S = 120
NEEDED = {
    "GPU": "Run make gpu, which installs the libraries that MindSpore needs (docs/gpu.md)",
    "Ascend": "Install the driver and CANN that MindSpore needs",
}

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the screen."""

    what: str
    found: str
    level: Level = "ok"
    """A note is something that only some need; a problem stops work or makes it slow."""
    advice: str = ""
    """One sentence: what to do."""


def python_version() -> Iterator[Finding]:
    """The interpreter."""
    version = tuple(map(int, platform.python_version_tuple()[:2]))
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        yield Finding("Python", found)
    else:
        yield Finding(
            *("Python", found, "problem"),
            "Use Python 3.10, 3.11 or 3.12, such as make PYTHON=python3.11 up.",
        )


def packages() -> Iterator[Finding]:
    """Versions, and whether they are those that the project asks for."""
    try:
        wanted = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        yield Finding(
            *(DISTRIBUTION, "not installed", "problem"),
            "Run make up, or pip install -e . in the repository's folder.",
        )
        return
    yield Finding(DISTRIBUTION, metadata.version(DISTRIBUTION))
    for name in SHOWN:
        found = _version(name)
        yield (
            Finding(name, found) if found else Finding(name, "not installed", "note", _extra(name))
        )
    needed = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    for item in needed:
        found = _version(item.name)
        if not found or not item.specifier.contains(found, prereleases=True):
            yield Finding(
                *(item.name, found or "not installed", "problem"),
                f"Run pip install '{item.name}{item.specifier}', or make a new .venv with make up.",
            )


def vector_setting() -> Iterator[Finding]:
    """Which instructions MindSpore's oneDNN may use (docs/performance.md)."""
    flags = processor_features()
    best = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "no AVX")
    chosen = os.environ.get(ONEDNN_ISA, ONEDNN_ISA_DEFAULT)
    found = f"{ONEDNN_ISA}={chosen}, the processor has {best}"
    if best == "avx512f" and chosen.upper() not in ISA_LEVELS:
        yield Finding(
            *("vector instructions", found, "problem"),
            f"Unset {ONEDNN_ISA}: with AVX-512 convolutions are several times slower here.",
        )
    else:
        yield Finding("vector instructions", found)


def devices() -> Iterator[Finding]:
    """The devices that are there, and whether MindSpore computes on them."""
    present = {"GPU": _count("nvidia[0-9]*"), "Ascend": _count("davinci[0-9]*")}
    found = {name: count for name, count in present.items() if count}
    if not found:
        yield Finding("devices", "CPU only")
    for name, count in found.items():
        what = f"{count} {name} device(s)"
        if reason := _unusable(name):
            yield Finding(
                *("devices", f"{what}, which MindSpore cannot use: {reason}", "note"),
                f"{NEEDED[name]}; until then leave runtime.device at CPU.",
            )
        else:
            yield Finding("devices", f"{what}; MindSpore computes on it: runtime.device={name}")
    if "GPU" in found:
        yield from _onnxruntime_on_gpus()


def _onnxruntime_on_gpus() -> Iterator[Finding]:
    """Whether labelling can use the GPUs by ONNX Runtime."""
    from effnet_core.infer.engines.onnxruntime import CUDA, built_for

    if CUDA in built_for():
        yield Finding("labelling", "onnxruntime was built with CUDA: infer.engine=auto takes it")
    else:
        yield Finding(
            *("labelling", "onnxruntime was built for CPUs only", "note"),
            "Run make gpu (docs/gpu.md); until then MindSpore labels on the GPU.",
        )


def cores() -> Iterator[Finding]:
    """Processors that this process may use."""
    usable, there, share = len(available_cores()), os.cpu_count() or 1, _cpu_share()
    limit = f", limited to {share:g} by the container" if share else ""
    found = f"{usable} of {there} usable{limit}"
    if share and share < usable:
        yield Finding(
            *("cores", found, "note"),
            f"Pin the container to whole cores (such as --cpuset-cpus): {usable} threads share {share:g}.",
        )
    else:
        yield Finding("cores", found)


def memory() -> Iterator[Finding]:
    """Memory that is free, for this machine or container."""
    import psutil

    sizes = psutil.virtual_memory()
    total, free = float(sizes.total), float(sizes.available)
    if (limit := _memory_limit()) and limit < total:
        total, free = limit, min(free, limit)
    found = f"{human_bytes(free)} of {human_bytes(total)} free"
    if free < LEAST_MEMORY:
        yield Finding(
            *("memory", found, "problem"),
            "End other programs: a training of the smallest variant needs about 2 GB.",
        )
    else:
        yield Finding("memory", found)


def disk() -> Iterator[Finding]:
    """Room where runs are written."""
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    found = f"{human_bytes(free)} free in {here}"
    if not os.access(here, os.W_OK):
        yield Finding(*("disk", found, "problem"), "Go to a folder that you may write to.")
    elif free < LEAST_DISK:
        yield Finding(
            *("disk", found, "problem"), "Free some room, or work in a folder on another disk."
        )
    else:
        yield Finding("disk", found)


def caches() -> Iterator[Finding]:
    """What can be made again, and its size."""
    try:
        folder = cache_dir("engines").parent
    except EffnetError as error:
        yield Finding(*("cache", str(error), "problem"), f"Set {CACHE_VARIABLE} to another folder.")
        return
    parts = [f"{path.name} {human_bytes(size_of(path))}" for path in sorted(folder.iterdir())]
    yield Finding("cache", f"{folder}: {', '.join(parts)}")


def operators() -> Iterator[Finding]:
    """Which CPU kernels training computes with, and why (docs/kernels.md)."""
    choice = describe("auto", "CPU")
    if choice.native:
        yield Finding("CPU kernels", str(choice))
    else:
        yield Finding(
            *("CPU kernels", str(choice), "note"),
            "Native kernels make training on a CPU several times faster: see docs/kernels.md.",
        )


def programs() -> Iterator[Finding]:
    """Programs that pip cannot install; tests and servers for a team use them."""
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = {
        "Chromium": shutil.which("chromium") or shutil.which("google-chrome"),
        "PostgreSQL": shutil.which("postgres") or (str(postgres[-1]) if postgres else None),
        "MPI": shutil.which("mpirun"),
    }
    advice = {
        "Chromium": "apt-get install chromium is needed only by the tests of the dashboard.",
        "PostgreSQL": "apt-get install postgresql is needed only by a server for many.",
        "MPI": "apt-get install openmpi-bin is needed only by programs that use MPI themselves.",
    }
    for name, program in found.items():
        if program:
            yield Finding(name, program)
        else:
            yield Finding(name, "not found", "note", advice[name])


Check: TypeAlias = Callable[[], Iterable[Finding]]

CHECKS: tuple[Check, ...] = (
    python_version,
    packages,
    vector_setting,
    devices,
    cores,
    memory,
    disk,
    caches,
    operators,
    programs,
)


def examine(more: Iterable[Check] = ()) -> list[Finding]:
    """Every finding, in the order of ``CHECKS``, and then those of ``more``."""
    return [finding for check in (*CHECKS, *more) for finding in check()]


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether there is no problem; a note is not one."""
    return all(finding.level != "problem" for finding in findings)


def as_table(findings: Iterable[Finding]) -> Table:
    """The screen."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    styles = {"ok": "green", "note": "yellow", "problem": "red"}
    for finding in findings:
        level = Text(finding.level, styles[finding.level])
        table.add_row(level, finding.what, finding.found, finding.advice)
    return table


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """The same for programs."""
    rows = [asdict(finding) for finding in findings]
    return {"well": all(row["level"] != "problem" for row in rows), "findings": rows}


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; what goes away meanwhile counts nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).lstat().st_size
            except OSError:
                continue
    return total


def _version(name: str) -> str:
    """A package's version, or that of one that takes its place; empty where neither is there."""
    for package in (name, *INSTEAD.get(name, ())):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _extra(name: str) -> str:
    return f"pip install '{DISTRIBUTION}[{name}]' adds it."


def _unusable(device: str) -> str | None:
    """What MindSpore says when it is asked to compute on a device; in a child process, since it may crash."""
    call = f"join_group(RuntimeConfig(device={device!r}, world_size=1))"
    code = f"from effnet_core.jobs.collective import join_group, RuntimeConfig; {call}"
    command, environment = [sys.executable, "-c", code], dict(os.environ)
    if device == "GPU":
        cuda.prepare(environment)
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEVICE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        newer = device == "GPU" and newer_than_kernels()
        return f"no answer within {DEVICE_TIMEOUT_S} s" + (f"; {SLOW_FIRST_USE}" if newer else "")
    if done.returncode == 0:
        return None
    reason = re.search(r"ConfigError: .*? \((.*)\);", done.stderr)
    return reason[1] if reason else f"exit code {done.returncode}"


def _count(pattern: str) -> int:
    return len(list(Path("/dev").glob(pattern)))


def _cpu_share() -> float | None:
    """Cores' worth of time that a container gives, where it is limited."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _memory_limit() -> float | None:
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # "max" too
        return None
