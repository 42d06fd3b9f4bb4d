"""The check of a machine with NVIDIA GPUs: ``make gpu-check``; ``--dry-run`` goes the same way on a CPU.

Parts run one after the other, each with a time limit of its own, and whatever is found is written at once:
a check that is cut after ten minutes leaves what it has. Before the first part nothing is installed or
compiled here; ``make gpu-check`` installs the extra ``gpu`` first.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu.child import MARK
from benchmarks.gpu.report import put, section
from benchmarks.gpu.switches import DEFAULT, SWITCHES, TORCH
from effnet_core.jobs import cuda
from effnet_core.system import machine
from effnet_core.system.files import write_json

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = os.environ.get("EFFNET_PEERS_PYTHON", "")
TOTAL_S = 570.0
"""A little less than the ten minutes that a machine may be had for."""
TOGETHER = 4
"""Graphs that are compiled at the same time; their steps are measured one by one."""
SIZES = {"variant": "efficientnet_b0", "batch": 128, "side": 224, "steps": 20, "pictures": 4096}
WHOLE = {"whole_variant": "efficientnet_lite0", "whole_batch": 32}
DRY_SIZES = {"variant": "efficientnet_tiny", "batch": 4, "side": 32, "steps": 2, "pictures": 40}
DRY_WHOLE = {"whole_variant": "efficientnet_tiny", "whole_batch": 16}
DRY_SWITCHES = (DEFAULT, "O2, BatchNorm in 16 bits")


@dataclass(frozen=True)
class Part:
    """One measurement: a function of ``child.py`` with its options."""

    name: str
    child: str
    options: dict[str, Any]
    limit_s: float
    python: str = sys.executable
    """torch may live in another interpreter, with libraries of its own."""


@dataclass
class Results:
    """What was found so far, as a file that is always whole."""

    path: Path
    facts: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, **changes: Any) -> None:
        """Add to a part, and write everything."""
        with self.lock:
            part = self.parts.setdefault(name, {"state": "running", "found": {}})
            part["found"].update(changes.pop("found", {}))
            part.update(changes)
            values = {**self.facts, "parts": self.parts}
            write_json(self.path.with_suffix(".json"), values)
            put(self.path.with_suffix(".md"), *section(values))


def parts(options: dict[str, Any], *, dry: bool, gpus: int) -> Iterator[list[Part]]:
    """What is measured, in order; parts of one list are started together."""
    yield [Part("first start", "first_start", options, 240)]
    names = DRY_SWITCHES if dry else tuple(SWITCHES)
    first = {**options, "settings": [], "profile": True}
    yield [Part(f"step: {DEFAULT}", "step", first, 150)]
    if PEERS_PYTHON:
        for name, (mode, precision) in TORCH.items():
            given = {**options, "mode": mode, "precision": precision}
            yield [Part(name, "torch", given, 60, PEERS_PYTHON)]
    steps = [
        Part(f"step: {name}", "step", {**options, "settings": SWITCHES[name]}, 120)
        for name in names
        if name != DEFAULT
    ]
    for start in range(0, len(steps), TOGETHER):
        yield steps[start : start + TOGETHER]
    yield [Part("correctness", "correctness", options, 180)]
    yield [Part("labelling", "labelling", options, 120)]
    yield [Part("operators", "operators", options, 60)]
    if dry or gpus > 1:
        yield [Part("two ranks", "ranks", options, 120)]


def run(part: Part, results: Results, deadline: float) -> None:
    """Run a part to its end or its time limit, whichever comes first; keep what it finds."""
    limit = min(part.limit_s, deadline - time.monotonic())
    if limit < 1:
        results.put(part.name, state="not begun")
        return
    command = [part.python, "-m", "benchmarks.gpu.child", part.child, json.dumps(part.options)]
    began = time.monotonic()
    cut, last = threading.Event(), []
    with subprocess.Popen(
        command,
        cwd=part.options.get("folder", ROOT),  # MindSpore leaves its dumps in the current folder
        env=environment(part),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        timer = threading.Timer(limit, lambda: (cut.set(), end(process)))
        timer.start()
        results.put(part.name, limit_s=limit)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                results.put(part.name, found=json.loads(line.removeprefix(MARK)))
            else:
                last = [*last, line.rstrip()][-12:]
        code = process.wait()
        timer.cancel()
    state = "cut" if cut.is_set() else "failed" if code else "done"
    details = {} if state == "done" else {"last_lines": last}
    results.put(part.name, state=state, seconds=time.monotonic() - began, **details)
    print(f"{part.name}: {state} after {time.monotonic() - began:.0f} s", flush=True)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a part with what it has started; launched ranks end by themselves when their parent is gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def environment(part: Part) -> dict[str, str]:
    """What a part finds: on a GPU what CUDA needs, unless it is torch, which brings its own."""
    before = os.environ.get("PYTHONPATH")
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), before]))}
    if part.options["device"] == "GPU" and part.child != "torch":
        lazy = "runtime.lazy_kernels=false" not in part.options.get("settings", ())
        cuda.prepare(given, lazy_kernels=lazy)
    return given


def machine_facts(device: str) -> dict[str, Any]:
    """Where the check runs, and with which versions."""
    fields = "name,driver_version,memory.total,compute_cap,clocks.max.sm"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        gpus = [line.strip() for line in answer.stdout.splitlines()]
    except (OSError, subprocess.SubprocessError):
        gpus = []
    packages = {item.metadata["Name"]: item.version for item in metadata.distributions()}
    wanted = ("mindspore", "onnxruntime", "onnxruntime-gpu", "numpy")
    return {
        "gpus": gpus,
        "processor": machine.processor(),
        "cores": len(machine.available_cores()),
        "python": platform.python_version(),
        "versions": {
            name: version
            for name, version in sorted(packages.items())
            if name in wanted or str(name).startswith("nvidia-")
        },
        "kernel_cache_bytes": cache_bytes(),
        "device": device,
    }


def cache_bytes() -> int:
    """Size of the driver's cache of compiled kernels: a fresh machine has none."""
    given: dict[str, str] = {}
    cuda.prepare(given)
    folder = Path(os.environ.get(cuda.KERNELS, given[cuda.KERNELS]))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check(
    results: Results,
    planned: Iterator[list[Part]],
    *,
    total_s: float,
    run_part: Callable[[Part, Results, float], None] = run,
) -> None:
    """Run all parts within a time."""
    deadline = time.monotonic() + total_s
    for group in planned:
        with ThreadPoolExecutor(len(group)) as pool:
            list(pool.map(lambda part: run_part(part, results, deadline), group))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.gpu")
    parser.add_argument("--dry-run", action="store_true", help="the same way on a CPU, with a toy")
    parser.add_argument("--only", help="parts whose names hold this word")
    parser.add_argument("--limit", type=float, default=TOTAL_S, help="seconds for all parts")
    parser.add_argument("--out", type=Path, help="folder of gpu.json and gpu.md")
    options = parser.parse_args(arguments)
    device, gpus = ("CPU" if options.dry_run else "GPU"), len(machine.devices("GPU"))
    if device == "GPU" and not gpus:
        print("there is no NVIDIA GPU here; --dry-run (make gpu-check DRY=1) goes without")
        return 2
    out = options.out or (ROOT / "build" / "gpu-check" if options.dry_run else ROOT / "benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    sizes = {**DRY_SIZES, **DRY_WHOLE} if options.dry_run else {**SIZES, **WHOLE}
    facts = {
        "date": str(datetime.date.today()),
        "dry_run": options.dry_run,
        "machine": machine_facts(device),
        "sizes": sizes,
    }
    results = Results(out / "gpu", facts)
    with tempfile.TemporaryDirectory(prefix="effnet-gpu-check-") as folder:
        given = {**sizes, "device": device, "folder": folder}
        planned = parts(given, dry=options.dry_run, gpus=gpus)
        chosen = (
            [part for part in group if not options.only or options.only in part.name]
            for group in planned
        )
        check(results, (group for group in chosen if group), total_s=options.limit)
    print(f"written: {results.path.with_suffix('.json')} and {results.path.with_suffix('.md')}")
    states = {part["state"] for part in results.parts.values()}
    return 1 if "failed" in states or not states else 0


if __name__ == "__main__":
    sys.exit(main())
