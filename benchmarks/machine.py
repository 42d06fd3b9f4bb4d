"""What every benchmark says about where it ran, and where it leaves its table."""

from __future__ import annotations

import datetime
import platform
import re
from importlib.metadata import version
from pathlib import Path

from effnet_core.system.machine import available_cores

LIBRARIES = ("mindspore", "numpy", "onnxruntime", "openvino", "pillow", "prefect")
INSTRUCTIONS = {
    "avx512_bf16": "AVX-512 and bf16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "asimd": "NEON",
}
"""By the kernel's names, the widest first: they decide what is fast."""


def machine_name() -> str:
    """Processor, its widest instructions and the cores that may be used."""
    facts = _cpu_facts()
    cpu = facts.get("model name") or platform.processor()
    return f"{cpu} with {_widest(facts)}, {len(available_cores())} cores"


def picture_path(script: str) -> Path:
    """Where a chart of this machine's figures goes, beside those of others."""
    words = _widest(_cpu_facts()).lower().replace(" and ", " ").replace(" ", "-")
    return Path(script).with_name(f"{Path(script).stem}-{words}.png")


def _cpu_facts() -> dict[str, str]:
    """What the kernel says of the last core."""
    return dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )


def _widest(facts: dict[str, str]) -> str:
    flags = facts.get("flags", facts.get("Features", "")).split()
    return next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "no vectors")


def write_note(script: str, title: str, lines: list[str]) -> Path:
    """Write this machine's section of ``benchmarks/<script>.md``, and print it.

    Sections of other machines stay, below it, as they were.
    """
    path = Path(script).with_suffix(".md")
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    heading = f"## {machine_name()}"
    head = [
        heading,
        "",
        f"{datetime.date.today()}, Python {platform.python_version()}, {versions}. "
        f"Made by `python benchmarks/{Path(script).name}`.",
        "",
    ]
    section = "\n".join([*head, *lines]) + "\n"
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    others = [text for text in re.split(r"^(?=## )", known, flags=re.M)[1:]]
    kept = [text.rstrip() + "\n" for text in others if text.splitlines()[0] != heading]
    path.write_text("\n".join([f"# {title}\n", section, *kept]), encoding="utf-8")
    print(section)
    return path
