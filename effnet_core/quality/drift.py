"""The pictures of a labelling beside those that its model was made for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from effnet_core.config.schema import RunConfig
from effnet_core.data.imagenet import readable
from effnet_core.data.manifest import Split
from effnet_core.data.preprocess import decode_square
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.infer.plan import SHARDS_NAME, InferencePlan
from effnet_core.infer.sinks import OBSERVED_SUFFIX
from effnet_core.quality.features import label_splits
from effnet_core.results.checked import whole
from effnet_core.results.drift import (
    FEWEST_REFERENCE,
    REFERENCE_NAME,
    Drift,
    Observed,
    Reference,
    look_at,
    make_reference,
    measure,
)
from effnet_core.system.files import read_json, write_json
from effnet_core.system.locks import scratch_folder
from effnet_core.weights.checkpoint import Checkpoint

MOST_IMAGES = 2000
"""Held-out pictures that are looked at; of more, evenly spread ones."""
TOPIC = "reference"
COMPARED_NAME = "drift.json"
"""Beside the shards' counts: which of them were compared, and the latest finding."""


def write_reference(
    run_dir: Path, checkpoint: Checkpoint, split: Split, *, config: RunConfig
) -> Path | None:
    """Write what held-out pictures look like to a model beside it, unless it is there.

    Args:
        run_dir: folder of the run.
        checkpoint: its model.
        split: pictures that it did not learn from.
        config: engine and threads.

    Returns:
        The file; None where there are too few pictures.
    """
    path = run_dir / REFERENCE_NAME
    if reference_of(checkpoint) == path:
        return path
    if len(split) < FEWEST_REFERENCE:
        text = f"{len(split)} held-out pictures are too few for a reference of drift"
        emit(Event(TOPIC, f"{text} ({FEWEST_REFERENCE} are needed)"))
        return None
    few = _some(split)
    with scratch_folder("reference") as folder:
        rows = label_splits(checkpoint, [few], folder / "out", config=config)
    spec = checkpoint.sidecar.preprocess
    squares = (
        decode_square((few.root / name).read_bytes(), spec, fast=config.infer.fast_decode)
        for name in few.paths
    )
    reference = make_reference(
        np.array([row["features"] for row in rows], np.float32),
        np.array([row["class_ids"][0] for row in rows], np.int64),
        np.array([row["probs"][0] for row in rows]),
        np.array([look_at(square) for square in squares]),
        classes=checkpoint.sidecar.num_classes,
        checkpoint_sha256=checkpoint.sha256,
    )
    reference.save(path)
    emit(Event(TOPIC, f"what {len(few):,} held-out pictures look like is in {path}"))
    return path


def reference_of(checkpoint: Checkpoint) -> Path | None:
    """The reference that lies beside a checkpoint, if it is of this one."""
    path = checkpoint.path.with_name(REFERENCE_NAME)
    try:
        found = Reference.read(path) if path.is_file() else None
    except DataError as damage:
        emit(Event(TOPIC, f"drift is not measured: {damage}"))
        return None
    return path if found is not None and found.checkpoint_sha256 == checkpoint.sha256 else None


def drift_of(done: InferencePlan, checkpoint: Checkpoint) -> Drift | None:
    """How far the pictures of a finished labelling are from those that its model was made for.

    Only pictures that no earlier run into this output has compared count: of a folder that grows every day
    these are the new ones. A run that has labelled nothing repeats what the one before it found.

    Returns:
        None where the model has no reference, or where parts were labelled without it.
    """
    before = _Compared.read(done.output)
    path = reference_of(checkpoint)
    fresh = [
        shard.part
        for shard in done.shards
        if shard.part not in before.parts and shard.model_sha256 == checkpoint.sha256
    ]
    files = [done.output / SHARDS_NAME / f"{part}{OBSERVED_SUFFIX}" for part in fresh]
    there = [file for file in files if file.is_file()]
    if path is None or not there:
        return before.found
    try:
        seen = Observed.together([Observed.read(file) for file in there])
    except DataError as damage:
        emit(Event(TOPIC, f"drift is not measured: {damage}"))
        return None
    names = readable(checkpoint.sidecar.class_names)
    found = measure(Reference.read(path), seen, class_names=names)
    _Compared(frozenset({*before.parts, *fresh}), found, is_reported=False).write(done.output)
    return found


def is_reported(output: Path) -> bool:
    """Whether the latest finding about a labelling has been reported; none is reported twice."""
    return _Compared.read(output).is_reported


def note_reported(output: Path) -> None:
    """Note that the latest finding has been reported."""
    replace(_Compared.read(output), is_reported=True).write(output)


@dataclass(frozen=True)
class _Compared:
    """What earlier runs into an output have compared, and what the latest found."""

    parts: frozenset[str] = frozenset()
    found: Drift | None = None
    is_reported: bool = False

    @classmethod
    def read(cls, output: Path) -> _Compared:
        """The record in an output; an empty one where there is none, or where it is damaged."""
        path = output / SHARDS_NAME / COMPARED_NAME
        if not path.is_file():
            return cls()
        try:
            with whole(path, "record of drift"):
                values = read_json(path)
                found = None if values["found"] is None else Drift.from_dict(values["found"])
                return cls(
                    frozenset(map(str, values["parts"])), found, values["is_reported"] is True
                )
        except DataError as damage:
            emit(Event(TOPIC, f"{damage}; it is made anew"))
            return cls()

    def write(self, output: Path) -> None:
        found = self.found and self.found.to_dict()
        values = {"is_reported": self.is_reported, "found": found, "parts": sorted(self.parts)}
        write_json(output / SHARDS_NAME / COMPARED_NAME, values)


def _some(split: Split) -> Split:
    """At most so many pictures of a split."""
    chosen = np.unique(np.linspace(0, len(split) - 1, MOST_IMAGES).astype(int)).tolist()
    return replace(
        split,
        image_ids=tuple(split.image_ids[i] for i in chosen),
        paths=tuple(split.paths[i] for i in chosen),
        labels=split.labels[chosen],
        marks=split.marks[chosen],
        records=(),
    )
