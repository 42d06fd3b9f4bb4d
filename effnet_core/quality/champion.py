"""Production and its challenger on the same images, each measured once and kept by digest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from effnet_core.config.schema import RunConfig, StorageConfig
from effnet_core.data.manifest import Dataset, open_dataset
from effnet_core.errors import DataError, GateRefused
from effnet_core.events import Event, emit
from effnet_core.jobs.job import EvaluateJob
from effnet_core.jobs.launch import run_job
from effnet_core.model_store.registry import VersionManifest
from effnet_core.model_store.versions import cached_model
from effnet_core.quality.classes import match
from effnet_core.results.answers import ANSWERS_NAME, UNKNOWN, Answers
from effnet_core.results.paired import Paired, compare_answers
from effnet_core.system.files import sha256_of_text
from effnet_core.system.locks import alone, scratch_folder
from effnet_core.weights.checkpoint import Checkpoint

CACHE_NAME = "answers"
TOPIC = "compare"


@dataclass(frozen=True)
class Comparison:
    """Compares one model with production, when the gate asks for it."""

    challenger: Callable[[], Answers]
    """Gives its answers; called only where there is a production to compare with."""
    data_dir: Path
    split: str
    config: RunConfig
    """Processes, device and batch size."""
    cache: Path
    """Folder for answers that were measured."""

    def __call__(self, production: VersionManifest) -> Paired:
        """Compare with a published version.

        Raises:
            StoreError: its files are damaged or cannot be read.
            GateRefused: it knows none of the classes.
            EffnetError: it could not be measured.
        """
        storage: StorageConfig = self.config.storage
        dataset = open_dataset(self.data_dir)
        checkpoint = cached_model(storage, production.version)
        text = f"comparing with production version {production.version} on {self.split} of {dataset.root}"
        emit(Event(TOPIC, text))
        champion = measured_answers(
            checkpoint, dataset, self.split, config=self.config, cache=self.cache
        )
        found = compare_answers(
            champion,
            self.challenger(),
            class_names=dataset.class_names,
            true=dataset.split(self.split).labels,
            version=production.version,
        )
        emit(Event(TOPIC, f"against {production.version}: {found.in_words()}", 1, 1))
        return found


def measured_answers(
    checkpoint: Checkpoint, dataset: Dataset, split: str, *, config: RunConfig, cache: Path
) -> Answers:
    """A model's answers to a split, measured now or before.

    Args:
        checkpoint: the model; classes are matched by their names, and images of classes that it does not
            know count as wrong.
        dataset: staged images.
        split: of the data set.
        config: processes, device and batch size; size and preprocessing are the model's own.
        cache: folder in which answers are kept, by digests.

    Raises:
        GateRefused: it knows none of the classes.
        EffnetError: as an evaluation.
    """
    labels = matched_classes(checkpoint, dataset)
    path = _place(checkpoint.sha256, dataset, split, cache)
    with alone(path):
        try:
            return _of(Answers.read(path), checkpoint, dataset, split)
        except DataError:  # it was not measured, or what is there is damaged
            pass
        job = EvaluateJob(
            checkpoint.path.resolve(), checkpoint.sha256, dataset.root.resolve(), split, labels
        )
        with scratch_folder("compare") as folder:
            run_job(job, _as_it_is(config, images=len(dataset.split(split))), folder)
            answers = _of(Answers.read(folder / ANSWERS_NAME), checkpoint, dataset, split)
            shutil.copyfile(folder / ANSWERS_NAME, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
    return answers


def remember(answers: Answers, dataset: Dataset, cache: Path) -> None:
    """Keep answers that were measured elsewhere: tomorrow their model may be the one in production."""
    origin = answers.origin
    path = _place(origin.checkpoint_sha256, dataset, origin.split, cache)
    with alone(path):
        if not path.is_file():
            answers.save(path)


def _place(checkpoint_sha256: str, dataset: Dataset, split: str, cache: Path) -> Path:
    return cache / f"{sha256_of_text(checkpoint_sha256, dataset.digest, split)[:32]}.npz"


def answers_beside(
    result: Path, checkpoint_sha256: str, dataset: Dataset, split: str
) -> Answers | None:
    """The answers that lie beside a result, where they are of this model and these images."""
    try:
        answers = Answers.read(result.parent / ANSWERS_NAME)
    except DataError:
        return None
    found = answers.origin.checkpoint_sha256, answers.origin.data_digest, answers.origin.split
    return answers if found == (checkpoint_sha256, dataset.digest, split) else None


def matched_classes(checkpoint: Checkpoint, dataset: Dataset) -> tuple[int, ...]:
    """The model's number of each class of a data set, by name; ``UNKNOWN`` where it has none.

    Raises:
        GateRefused: it knows none of them.
    """
    labels = match(dataset.class_names, checkpoint.sidecar.class_names)
    if all(label == UNKNOWN for label in labels):
        known, asked = checkpoint.sidecar.class_names[0], dataset.class_names[0]
        raise GateRefused(
            f"{checkpoint.path} knows none of the {dataset.num_classes} classes of {dataset.root} (its "
            f"first is {known!r}, theirs {asked!r}); publish models of other classes under another "
            "storage.name"
        )
    return labels


def _of(answers: Answers, checkpoint: Checkpoint, dataset: Dataset, split: str) -> Answers:
    origin = answers.origin
    found = origin.checkpoint_sha256, origin.data_digest, origin.split
    if found != (checkpoint.sha256, dataset.digest, split):
        raise DataError("these are answers of another model or to other images; evaluate again")
    return answers


def _as_it_is(config: RunConfig, *, images: int) -> RunConfig:
    """Settings for a model that brings its own size, and data that may have no records."""
    data = config.data.model_copy(update={"image_size": None, "format": "folder"})
    ranks = min(config.runtime.local_world_size, images)
    here = {"hosts": (), "host_index": None, "world_size": ranks}
    runtime = config.runtime.model_copy(update=here)
    return config.model_copy(update={"data": data, "runtime": runtime})
