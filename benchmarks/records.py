"""Reading a staged data set from its files and from MindRecord files made of them, in the order of training.

Both give the same pixels, so only the way from the disk differs: alone, and with decoding and augmentation
as training does it. "Cold" is after the page cache was asked to forget the files, "warm" is the second epoch
of a set that fits into memory. Files and records take turns in each round.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from effnet_core.jobs import environment
from effnet_core.system import machine

environment.prepare()

import mindspore.dataset as ds  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.machine import write_note  # noqa: E402
from effnet_core.config.schema import DataConfig  # noqa: E402
from effnet_core.data import loader  # noqa: E402
from effnet_core.data.manifest import Dataset, Split  # noqa: E402
from effnet_core.data.order import epoch_order  # noqa: E402
from effnet_core.data.preprocess import PreprocessSpec  # noqa: E402
from effnet_core.data.records import record_files, split_as, write_records  # noqa: E402
from effnet_core.data.staging import stage_dataset  # noqa: E402
from effnet_core.data.transforms import train_transforms  # noqa: E402

BATCH = 64
SPEC = PreprocessSpec(224, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FILES, RECORDS = "files", "records"


def make_images(root: Path, count: int) -> Path:
    """Photograph-like JPEGs of 400 x 320 px in ten classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((400, 320), Image.Resampling.BICUBIC)
        noise = rng.integers(-12, 13, (320, 400, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=85)
        path = root / f"class-{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.getvalue())
    return root


def forget(paths: Iterable[Path]) -> None:
    """Ask the page cache to drop files; what is on the disk already can be dropped."""
    os.sync()
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read(split: Split, order: list[int]) -> float:
    """Seconds to hand over every encoded image."""
    if split.records:
        dataset = loader._recorded(split, order)
    else:
        source = loader.FileSource(split, order, None, np.zeros(len(order), bool))
        dataset = ds.GeneratorDataset(
            source, loader.COLUMNS, shuffle=False, python_multiprocessing=False
        )
    started = time.perf_counter()
    seen = sum(1 for _ in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert seen == len(order)
    return time.perf_counter() - started


def load(split: Split, order: list[int]) -> float:
    """Seconds to read, decode and augment every image, as training does."""
    started = time.perf_counter()
    rows = loader.batches(
        split,
        order,
        transforms=train_transforms(SPEC, DataConfig()),
        batch_size=BATCH,
        workers=len(machine.available_cores()),
        seed=0,
        background=None,
    )
    assert sum(batch.valid for batch in rows) == len(order)
    return time.perf_counter() - started


def main() -> None:
    """Measure both and write the note."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as name:
        root = Path(name)
        source = make_images(root / "source", options.images)
        dataset, _ = stage_dataset(source, root / "data", val_share=0)
        started = time.perf_counter()
        write_records(dataset.root, "train")
        seconds = time.perf_counter() - started
        lines = run(dataset, seconds, options)
    write_note(__file__, "Records against files", lines)


def run(dataset: Dataset, seconds: float, options: argparse.Namespace) -> list[str]:
    splits = {
        FILES: dataset.split("train"),
        RECORDS: split_as(dataset, "train", DataConfig(format="mindrecord")),
    }
    everything = {
        FILES: [dataset.root / path for path in splits[FILES].paths],
        RECORDS: list(record_files(dataset, "train")),
    }
    sizes = {kind: sum(path.stat().st_size for path in paths) for kind, paths in everything.items()}
    work: dict[str, Callable[[Split, list[int]], float]] = {
        "reading alone": read,
        "reading, decoding, augmenting": load,
    }
    taken: dict[tuple[str, str, str], list[float]] = {}
    for number in range(options.rounds):
        order = epoch_order(len(splits[FILES]), seed=0, epoch=number).tolist()
        kinds = [FILES, RECORDS] if number % 2 == 0 else [RECORDS, FILES]
        for what, measure in work.items():
            for kind in kinds:
                forget(everything[kind])
                for state in ("cold", "warm"):
                    spent = measure(splits[kind], order)
                    taken.setdefault((what, state, kind), []).append(spent)
    count = len(splits[FILES])
    lines = [
        f"{count:,} JPEGs of 400 x 320 px, {sizes[FILES] / 1e6:.0f} MB, shuffled as in training; "
        f"{options.rounds} round(s), medians. Records took {seconds:.1f} s to write and "
        f"{sizes[RECORDS] / 1e6:.0f} MB.",
        "",
        "| | files, images/s | records, images/s | records, times files |",
        "|---|--:|--:|--:|",
    ]
    for what in work:
        for state in ("cold", "warm"):
            times = {kind: taken[what, state, kind] for kind in (FILES, RECORDS)}
            rates = [count / statistics.median(times[kind]) for kind in (FILES, RECORDS)]
            ratio = statistics.median(
                a / b for a, b in zip(times[FILES], times[RECORDS], strict=True)
            )
            lines.append(f"| {what}, {state} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    main()
