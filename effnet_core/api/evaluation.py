"""Evaluate a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_core.api.opening import open_weights
from effnet_core.api.staging import ensure_records
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Dataset, open_dataset
from effnet_core.errors import ConfigError
from effnet_core.events import Event, emit
from effnet_core.jobs import launch
from effnet_core.jobs.job import EvaluateJob
from effnet_core.results import EvalResult
from effnet_core.system.locks import scratch_folder, sole_user

if TYPE_CHECKING:
    from effnet_core.weights.checkpoint import Checkpoint


def evaluate(
    weights: str | Path,
    data_dir: Path,
    *,
    split: str | None = None,
    config: RunConfig | None = None,
    work_dir: Path | None = None,
    classes: Path | None = None,
) -> EvalResult:
    """Evaluate a checkpoint on a split of a staged data set.

    Args:
        weights: as ``open_weights`` takes them.
        data_dir: a staged data set with classes of the model's, all or some of them.
        split: ``data.eval_split`` by default.
        config: processes, batch size and workers; the model comes from the sidecar.
        work_dir: where the job's files go, the answers to each image among them; a temporary folder by
            default.
        classes: CSV file that says which class of the model each class of the data set is.

    Raises:
        EffnetError: as ``evaluate_checkpoint`` and the launcher.
    """
    config = config or RunConfig()
    with _evaluation_folder(work_dir) as folder:
        job = evaluation_job(weights, data_dir, split=split, config=config, classes=classes)
        return EvalResult.from_dict(launch.run_job(job, config, folder))


@contextmanager
def _evaluation_folder(work_dir: Path | None) -> Iterator[Path]:
    if work_dir is None:
        with scratch_folder("evaluate") as folder:
            yield folder
    else:
        with sole_user(work_dir, what="evaluation folder"):
            yield work_dir


def evaluation_job(
    weights: str | Path,
    data_dir: Path,
    *,
    split: str | None = None,
    config: RunConfig,
    classes: Path | None = None,
) -> EvaluateJob:
    """The job that evaluates a checkpoint; arguments as for ``evaluate``.

    Raises:
        EffnetError: weights, data and settings do not fit together.
    """
    chosen = split or config.data.eval_split
    checkpoint = open_weights(weights, config.storage)
    dataset = open_dataset(data_dir)
    images = len(dataset.split(chosen))
    if config.runtime.world_size > images:
        raise ConfigError(
            f"runtime.world_size={config.runtime.world_size} is more than the {images} images of "
            f"split {chosen!r}; lower runtime.world_size"
        )
    if config.data.format == "mindrecord":
        ensure_records(dataset, (chosen,), config)
    return EvaluateJob(
        checkpoint.path.resolve(),
        checkpoint.sha256,
        data_dir.resolve(),
        split=chosen,
        labels=_labels(checkpoint, dataset, classes),
    )


def _labels(
    checkpoint: Checkpoint, dataset: Dataset, classes: Path | None
) -> tuple[int, ...] | None:
    """The model's number of each class of a data set; None where both have the same classes.

    Raises:
        DataError: the model does not know a class.
    """
    from effnet_core.quality.classes import read_class_map, require_match

    known, asked = checkpoint.sidecar.class_names, dataset.class_names
    if classes is None and known == asked:
        return None
    labels = require_match(asked, known, read_class_map(classes) if classes else None)
    text = f"{len(labels):,} of the model's {len(known):,} classes are in the data set"
    emit(Event("evaluate", f"{text}; an answer of another class counts as wrong"))
    return labels
