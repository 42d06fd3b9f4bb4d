"""Memory and listing time while many small images are labelled in a run that is killed three times.

python benchmarks/infer_memory.py [--images 1000000] [--pictures FOLDER]
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
from dataclasses import dataclass, field
from pathlib import Path

from machine import write_note

from effnet_core.infer.parts import iter_rows

ROOT = Path(__file__).resolve().parent.parent
CONTENTS = 500
SIDE_PX = 64
"""Longest side of the pictures that are made from those of --pictures."""
SETTLED = 50_000
"""Images after which memory should not grow any more."""
KILL_AT = (0.6, 0.75, 0.9)
"""Shares of the images at which the run is killed; the first process does the most, to see its memory."""
MODEL = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.support.weights import make_checkpoint
make_checkpoint(Path(sys.argv[1]), sys.argv[3], 10, image_size=32)
"""


def small_pictures(source: Path | None, folder: Path) -> list[Path]:
    """Small JPEGs: of real pictures, or of scikit-learn's handwritten digits."""
    from PIL import Image, UnidentifiedImageError

    folder.mkdir()
    made: list[Path] = []

    def add(image: Image.Image) -> None:
        image.thumbnail((SIDE_PX, SIDE_PX))
        path = folder / f"{len(made):04d}.jpg"
        image.convert("RGB").save(path, quality=90)
        made.append(path)

    if source is None:
        from effnet_core.data.digits import write_digits

        source = folder.with_name("digits")
        write_digits(source)
    for path in sorted(source.rglob("*")):
        if len(made) == CONTENTS:
            break
        try:
            add(Image.open(path))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue
    return made


def link_images(contents: list[Path], folder: Path, count: int) -> None:
    """Many names for a few contents."""
    for index in range(count):
        if index % 1000 == 0:
            (folder / f"{index // 1000:04d}").mkdir(parents=True)
        os.link(contents[index % len(contents)], folder / f"{index // 1000:04d}/{index:07d}.jpg")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass
class Life:
    """One process of the run, until it was killed or done."""

    samples: list[tuple[int, float]] = field(default_factory=list)
    """Images done by it, and resident memory of its child that works."""
    listed_s: float = 0.0
    """Until the plan was there."""
    parts: int = 0
    code: int = 0
    seconds: float = 0.0


def live(command: list[str], output: Path, goal: int, shard: int) -> Life:
    """Run until it ends, or kill it once ``goal`` images are done."""
    life, began = Life(), time.perf_counter()
    before = len(list((output / "predictions").glob("part-*")))
    plan = output / "plan.jsonl"
    planned = plan.stat().st_mtime_ns if plan.exists() else 0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.2)
        if not life.listed_s and plan.exists() and plan.stat().st_mtime_ns != planned:
            life.listed_s = time.perf_counter() - began
        life.parts = len(list((output / "predictions").glob("part-*")))
        for pid_file in output.glob("jobs/*/logs/rank_0.pid"):
            try:
                sample = resident_mb(int(pid_file.read_text()))
            except (OSError, ValueError, IndexError):
                continue
            life.samples.append(((life.parts - before) * shard, sample))
        if life.parts * shard >= goal:
            process.send_signal(signal.SIGKILL)
    life.code, life.seconds = process.wait(), time.perf_counter() - began
    return life


def check(output: Path, images: int, contents: int) -> str:
    """What is wrong with the rows; empty where each image is there once, with its picture's answer."""
    seen = bytearray(images)
    answers: dict[int, set[tuple[float, ...]]] = collections.defaultdict(set)
    for row in iter_rows(output, ["path", "probs"]):
        index = int(Path(row["path"]).stem)
        seen[index] += 1
        answers[index % contents].add(tuple(round(prob, 4) for prob in row["probs"]))
    if set(seen) != {1}:
        return (
            f"{seen.count(0):,} missing, {images - seen.count(0) - seen.count(1):,} more than once"
        )
    odd = sum(len(found) > 1 for found in answers.values())
    return f"{odd} pictures with different answers" if odd else ""


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument(
        "--pictures", type=Path, help="real pictures; scikit-learn's digits by default"
    )
    parser.add_argument("--variant", default="efficientnet_lite0")
    parser.add_argument("--shard", type=int, default=4096)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as temporary:
        folder = Path(temporary)
        contents = small_pictures(options.pictures, folder / "contents")
        link_images(contents, folder / "images", options.images)
        model, output = folder / "model.ckpt", folder / "out"
        code = [sys.executable, "-c", MODEL, str(model), str(ROOT), options.variant]
        subprocess.run(code, check=True)
        command = [sys.executable, "-m", "effnet_core", "predict", str(folder / "images")]
        command += ["--weights", str(model), "--output", str(output)]
        command += ["-o", f"infer.shard_images={options.shard}", "-o", "infer.engine=onnxruntime"]
        lives = []
        for share in (*KILL_AT, 2.0):
            lives.append(live(command, output, int(share * options.images), options.shard))
            print(f"{lives[-1].parts} parts, exit code {lives[-1].code}", flush=True)
        wrong = check(output, options.images, len(contents))
    first = lives[0]
    early = max((mb for done, mb in first.samples if done <= SETTLED), default=0.0)
    late = max((mb for done, mb in first.samples if done > SETTLED), default=early)
    kills = ", ".join(f"{life.parts * options.shard:,}" for life in lives[:-1])
    seconds = sum(life.seconds for life in lives)
    lines = [
        f"- {options.images:,} images, {len(contents)} contents of at most {SIDE_PX} px, {options.variant} "
        f"at 32 px, ONNX Runtime: {seconds:,.0f} s in all, listings and starts included.",
        f"- From the command to the plan of all shards: {first.listed_s:.1f} s; "
        f"{lives[-1].listed_s:.1f} s when the finished run is continued.",
        f"- Resident memory of the working process: at most {early:.0f} MB in the first {SETTLED:,} images, "
        f"at most {late:.0f} MB in the {max(0, first.samples[-1][0] - SETTLED):,} after them: "
        f"{late - early:+.0f} MB.",
        f"- Killed with SIGKILL after about {kills} images, then finished with exit code {lives[-1].code}: "
        f"{wrong or 'every image once, equal pictures with equal answers'}.",
    ]
    write_note(__file__, "Memory of batch inference, and runs that are killed", lines)


if __name__ == "__main__":
    main()
