"""Pooled features of a split's images, computed once by an engine and remembered by each file's digest."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Split
from effnet_core.data.preprocess import PixelArray
from effnet_core.errors import DataError, Interrupted
from effnet_core.events import Event, emit, emit_sometimes
from effnet_core.infer.pipeline import (
    Outputs,
    Predictor,
    Rejection,
    Wanted,
    iter_predictions,
)
from effnet_core.infer.readers import FolderReader
from effnet_core.infer.shards import resizer_for
from effnet_core.jobs.signals import stop_requested
from effnet_core.storage.cache import cache_dir, cached
from effnet_core.system.files import atomic_path, sha256_of_text
from effnet_core.system.locks import alone

CACHE_NAME = "features"
MOST_BYTES = 1 << 30
"""Features that are kept of one model at most; of more, those of other data sets are forgotten."""

Features = NDArray[np.float32]
Marks = NDArray[np.uint64]


class Mirrored:
    """An engine that is shown pictures as in a mirror."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.preprocess, self.class_names = predictor.preprocess, predictor.class_names
        self.workers, self.micro_batch = predictor.workers, predictor.micro_batch

    def forward(self, pixels: PixelArray) -> Outputs:
        """As the engine's, left and right exchanged."""
        return self.predictor.forward(np.ascontiguousarray(pixels[:, :, ::-1]))


def features_of(
    predictor: Predictor,
    split: Split,
    *,
    model: str,
    config: RunConfig,
    topic: str,
    mirrored: bool = False,
) -> Features:
    """Features of every image of a split, (N, channels), in its order.

    Args:
        predictor: an engine that gives features.
        split: of a staged data set.
        model: SHA-256 of the checkpoint, for the cache.
        config: settings of inference.
        topic: what the progress is called.
        mirrored: of the pictures as in a mirror.

    Raises:
        DataError: an image cannot be read, though it was when it was staged.
        Interrupted: this process was asked to stop; what was computed is remembered.
    """
    spec = sorted(asdict(predictor.preprocess).items())
    key = sha256_of_text(
        model, repr(spec), str(config.infer.fast_decode), *(["mirrored"] if mirrored else [])
    )
    predictor = Mirrored(predictor) if mirrored else predictor
    path = cached(cache_dir(CACHE_NAME) / f"{key[:32]}.npz")
    with alone(path):
        marks, rows = _read(path)
        missing = np.flatnonzero(~np.isin(split.marks, marks))
        if len(missing):
            fresh, error = _compute(predictor, split, missing, config, topic)
            done = split.marks[missing[: len(fresh)]]
            if len(fresh):
                marks = np.concatenate([marks, done])
                rows = np.concatenate([rows, fresh]) if len(rows) else fresh
                _write(path, marks, rows, wanted=split.marks)
            if error is not None:
                raise error
    order = np.argsort(marks, kind="stable")
    return np.asarray(rows[order[np.searchsorted(marks, split.marks, sorter=order)]])


def _compute(
    predictor: Predictor, split: Split, missing: NDArray[np.int64], config: RunConfig, topic: str
) -> tuple[Features, Exception | None]:
    """Features of the images at these positions, up to an error."""
    infer, reader = config.infer, FolderReader(split.root)
    paths = [split.paths[i] for i in missing]
    wanted = Wanted(
        1,
        features=True,
        fast_decode=infer.fast_decode,
        max_pixels=config.data.max_pixels * 16,
        resize=resizer_for(len(paths), config),
    )
    found: list[NDArray[np.float32]] = []
    error: Exception | None = None
    started = time.perf_counter()
    for piece in iter_predictions(
        predictor, reader, paths, wanted, readers=infer.readers or reader.readers
    ):
        for answer in piece.answers:
            if isinstance(answer, Rejection):
                error = DataError(
                    f"{split.root / answer.path} cannot be read any more ({answer.reason}); stage the data "
                    "set again"
                )
                break
            if answer.features is not None:
                found.append(answer.features)
        if stop_requested():
            error = error or Interrupted(
                f"it was stopped after the features of {len(found)} of {len(paths)} images, which are kept; "
                "the same command continues"
            )
        if error is not None:
            break
        emit_sometimes(topic, len(found), len(paths))
    rate = round(len(found) / (time.perf_counter() - started), 2)
    emit(Event(topic, metrics={"kind": "features", "images": len(found), "images_per_s": rate}))
    return (np.stack(found) if found else np.zeros((0, 0), np.float32)), error


def _read(path: Path) -> tuple[Marks, Features]:
    """What is remembered; nothing where the file is missing or damaged."""
    try:
        with np.load(path) as stored:
            marks, rows = stored["marks"], stored["features"]
        if len(marks) == len(rows) and marks.dtype == np.uint64 and rows.dtype == np.float32:
            return marks, rows
    except Exception:  # noqa: S110 - missing, or damaged in any way: it can be computed again
        pass
    return np.zeros(0, np.uint64), np.zeros((0, 0), np.float32)


def _write(path: Path, marks: Marks, rows: Features, *, wanted: Marks) -> None:
    """Remember features, and where they are too many only those of ``wanted``."""
    if rows.nbytes > MOST_BYTES:
        kept = np.isin(marks, wanted)
        marks, rows = marks[kept], rows[kept]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, marks=marks, features=rows)
