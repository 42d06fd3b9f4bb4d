"""What every benchmark says about where it ran, and where it leaves its table."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from pathlib import Path

from effnet_core.environment import available_cores

LIBRARIES = ("mindspore", "numpy", "onnxruntime", "openvino", "pillow", "prefect")


def cpu_name() -> str:
    """The processor's own name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def write_note(script: str, title: str, lines: list[str]) -> Path:
    """Write ``benchmarks/<script>.md`` with date, machine and versions; print it too."""
    path = Path(script).with_suffix(".md")
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    head = [
        f"# {title}",
        "",
        f"{datetime.date.today()}, {cpu_name()}, {len(available_cores())} cores, "
        f"Python {platform.python_version()}, {versions}. Made by `python benchmarks/{Path(script).name}`.",
        "",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text)
    return path
