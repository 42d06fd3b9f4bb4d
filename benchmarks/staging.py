"""Staging a folder of JPEGs of 500 x 375 px: CPU and wall time, beside a plain loop and another checkout.

The loop is the least that a careful person writes: list, read, decode in full with Pillow, SHA-256, copy, on
a thread for each core. Contenders take turns, each call in a process of its own, and a round's ratio is of
that round. With ``--labelling``, ``effnet predict`` of so many pictures is timed too.

    python -m benchmarks.staging [--images 3000 | --pictures FOLDER] [--rounds 5] [--before CHECKOUT]
                                 [--labelling 500]

CHECKOUT is a folder with another version of this repository and its ``.venv``; its ``effnet`` then is one of
the contenders. Figures include the start of each command.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.infer import write_photographs
from benchmarks.machine import write_note

CLASSES = 20
LOOP = """
import hashlib, sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from os import cpu_count
from pathlib import Path
from PIL import Image

source, out = map(Path, sys.argv[1:])

def one(path):
    content = path.read_bytes()
    image = Image.open(BytesIO(content))
    image.load()
    target = out / path.relative_to(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return hashlib.sha256(content).hexdigest(), image.size

with ThreadPoolExecutor(cpu_count()) as pool:
    list(pool.map(one, sorted(source.rglob("*.jpg"))))
"""


def make_images(root: Path, count: int) -> Path:
    write_photographs(root, count)
    for number, path in enumerate(sorted(root.iterdir())):
        folder = root / f"class-{number % CLASSES:02d}"
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    return root


def timed(command: list[str], where: Path) -> tuple[float, float]:
    """Seconds of CPU, children's included, and of the clock."""
    started, before = time.perf_counter(), os.times()
    subprocess.run(
        command, cwd=where, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wall, after = time.perf_counter() - started, os.times()
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system, wall


def contenders(work: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """The commands, ours first."""
    python, source, out = sys.executable, str(work / "source"), str(work / "out")
    effnet = {"": str(Path(python).with_name("effnet"))}
    if options.before:
        effnet[", before"] = f"{options.before}/.venv/bin/effnet"
    found = {
        f"staging{when}": [command, "stage", source, "--out", out]
        for when, command in effnet.items()
    }
    found["staging, a plain loop"] = [python, "-c", LOOP, source, out]
    if options.labelling:
        few = ["predict", str(work / "few"), "--weights", "efficientnet_lite0", "--output", out]
        found |= {f"labelling{when}": [command, *few] for when, command in effnet.items()}
    return found


def measure(options: argparse.Namespace, work: Path) -> list[str]:
    source = work / "source"
    if options.pictures:
        source.symlink_to(options.pictures.resolve())
    else:
        make_images(source, options.images)
    size = sum(path.stat().st_size for path in source.glob("*/*.jpg"))
    if options.labelling:
        make_images(work / "few", options.labelling)
    taken: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds + 1):
        commands = list(contenders(work, options).items())
        for name, command in commands if number % 2 else reversed(commands):
            shutil.rmtree(work / "out", ignore_errors=True)
            spent = timed(command, work)
            if number:  # the first round fills the page cache
                taken.setdefault(name, []).append(spent)
            print(f"{name}: {spent[0]:.2f} s of CPU, {spent[1]:.2f} s", flush=True)
    lines = [
        f"{options.images:,} JPEGs, {size / 1e6:.0f} MB, for staging, {options.labelling:,} for labelling; "
        f"{options.rounds} round(s), medians. A ratio is ours to the other's, the median over rounds.",
        "",
        "| | CPU, s | wall, s | CPU, ratio | wall, ratio |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, spent in taken.items():
        ours = taken["labelling" if name.startswith("labelling") else "staging"]
        medians = [statistics.median(values) for values in zip(*spent, strict=True)]
        ratios = [
            statistics.median(a[k] / b[k] for a, b in zip(ours, spent, strict=True)) for k in (0, 1)
        ]
        shown = "| | |" if spent is ours else f"| {ratios[0]:.2f} | {ratios[1]:.2f} |"
        lines.append(f"| {name} | {medians[0]:.2f} | {medians[1]:.2f} {shown}")
    return lines


def main() -> None:
    """Measure all and write the note."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--pictures", type=Path, help="a folder that was made by an earlier run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="a checkout with a .venv")
    parser.add_argument("--labelling", type=int, default=0, help="pictures that are labelled")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as name:
        lines = measure(options, Path(name))
    write_note(__file__, "Staging", lines)


if __name__ == "__main__":
    main()
