"""Resident memory while 100,000 small images are labelled, and that a run killed three times has them all.

python benchmarks/infer_memory.py [--images 100000]
"""

from __future__ import annotations

import argparse
import collections
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import write_note

from effnet_core.infer.output import read_parts

ROOT = Path(__file__).resolve().parent.parent
CONTENTS = 64
SETTLED = 5000
KILLS = 3


def write_images(folder: Path, count: int) -> None:
    """Noise of 48x48; many names for a few contents."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    originals = folder.with_name("contents")
    originals.mkdir()
    for index in range(CONTENTS):
        image = Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8))
        image.save(originals / f"{index}.jpg")
    for index in range(count):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{index % CONTENTS}.jpg", path)


def write_checkpoint(path: Path) -> None:
    """The smallest network of the tests, in a process of its own."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; "
        "from tests.support.weights import make_checkpoint; make_checkpoint(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(path), str(ROOT)], check=True)


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watch(command: list[str], output: Path, goal: float) -> tuple[list[tuple[int, float]], int]:
    """Images done and memory of the child that works, until it ends or is killed at ``goal`` images."""
    samples: list[tuple[int, float]] = []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.1)
        parts = len(list((output / "predictions").glob("part-*")))
        for pid_file in output.glob("jobs/*/logs/rank_0.pid"):
            try:
                samples.append((parts, resident_mb(int(pid_file.read_text()))))
            except (OSError, ValueError, IndexError):
                continue
        if parts >= goal:
            process.send_signal(signal.SIGKILL)
    return samples, process.wait()


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as temporary:
        folder = Path(temporary)
        write_images(folder / "images", options.images)
        write_checkpoint(folder / "tiny.ckpt")
        shard = 1000

        def command(output: Path) -> list[str]:
            words = [sys.executable, "-m", "effnet_core", "predict", str(folder / "images")]
            words += ["--weights", str(folder / "tiny.ckpt"), "--output", str(output)]
            return [*words, "-o", f"infer.shard_images={shard}"]

        started = time.perf_counter()
        samples, code = watch(command(folder / "one"), folder / "one", float("inf"))
        seconds = time.perf_counter() - started
        assert code == 0
        settled = max(mb for parts, mb in samples if parts * shard <= SETTLED)
        largest = max(mb for parts, mb in samples if parts * shard > SETTLED)

        kills = []
        for turn in range(1, KILLS + 1):
            goal = turn * options.images // shard // (KILLS + 2) + turn
            watch(command(folder / "two"), folder / "two", goal)
            kills.append(len(list((folder / "two" / "predictions").glob("part-*"))))
        _, code = watch(command(folder / "two"), folder / "two", float("inf"))
        assert code == 0
        rows = collections.Counter(row["path"] for row in read_parts(folder / "two"))
        same = read_parts(folder / "one") == read_parts(folder / "two")
    lines = [
        f"- {options.images:,} images of 48x48 in {seconds:.0f} s, listing and start included.",
        f"- Resident memory of the working process: at most {settled:.0f} MB in the first {SETTLED:,} "
        f"images, at most {largest:.0f} MB afterwards: {largest - settled:+.0f} MB.",
        f"- Killed with SIGKILL after {', '.join(map(str, kills))} of {options.images // shard} shards, "
        f"then finished: {len(rows):,} paths, each {set(rows.values()) or 0} times; the same rows as "
        f"the run in one go: {same}.",
    ]
    write_note(__file__, "Memory of batch inference, and runs that are killed", lines)


if __name__ == "__main__":
    main()
