"""The same 20,000 images on the flow's two runners: are the parts the same, and how long do they take?

python benchmarks/infer_runners.py [--images 20000]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from infer_memory import write_checkpoint, write_images
from machine import write_note
from prefect.testing.utilities import prefect_test_harness

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SHARD = 1000
RUNNERS = {"threads": 1, "dask": 2}
"""Workers of each."""


def digests(output: Path) -> dict[str, str]:
    """SHA-256 of each part file."""
    parts = (output / "predictions").iterdir()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}


def main() -> None:
    """Measure, print and keep."""
    from flows.batch_infer import batch_infer_flow

    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    lines = ["| runner | workers | seconds | images labelled | parts |", "|---|---|---|---|---|"]
    found = []
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as temporary:
        folder = Path(temporary)
        write_images(folder / "images", options.images)
        write_checkpoint(folder / "tiny.ckpt")
        with prefect_test_harness(server_startup_timeout=120):
            for runner, workers in RUNNERS.items():
                started = time.perf_counter()
                summary = batch_infer_flow(
                    str(folder / "images"),
                    str(folder / "tiny.ckpt"),
                    str(folder / runner),
                    runner=runner,
                    workers=workers,
                    shard_images=SHARD,
                )
                seconds = time.perf_counter() - started
                found.append(digests(folder / runner))
                lines.append(
                    f"| {runner} | {workers} | {seconds:.0f} | {summary['labelled']:,} | {len(found[-1])} |"
                )
    same = found[0] == found[1]
    lines += ["", f"{options.images:,} images of 48x48. Every part the same, byte by byte: {same}."]
    write_note(__file__, "Batch inference on threads and on Dask", lines)


if __name__ == "__main__":
    main()
