"""Accuracy of a network over every image of a split, exact on any number of ranks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnet_core.config.schema import RunConfig
from effnet_core.data.loader import Batch, batches
from effnet_core.data.manifest import Split, open_dataset
from effnet_core.data.order import eval_range
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.data.records import split_as
from effnet_core.data.transforms import eval_transforms
from effnet_core.errors import DataError, Interrupted, JobError
from effnet_core.events import Event, emit
from effnet_core.jobs.collective import Group
from effnet_core.jobs.signals import stop_requested
from effnet_core.kernels.choice import library as operators
from effnet_core.model.network import EfficientNet
from effnet_core.results import EvalResult
from effnet_core.results.answers import UNKNOWN
from effnet_core.train.scores import Scores
from effnet_core.train.tally import Tally
from effnet_core.weights.checkpoint import Checkpoint
from effnet_core.weights.load import load_network

TOPIC = "evaluate"


def evaluate_network(
    network: EfficientNet,
    split: Split,
    spec: PreprocessSpec,
    config: RunConfig,
    group: Group,
    *,
    class_names: tuple[str, ...],
    topic: str = TOPIC,
    labels: NDArray[np.int32] | None = None,
    scores: Scores | None = None,
) -> EvalResult:
    """Evaluate a network that is in memory.

    Each rank counts over its own range of images; the counts are summed once, at the end, so ranks may
    have different numbers of batches.

    Args:
        network: gives logits before calibration.
        split: the images.
        spec: how they are prepared.
        config: batch size and workers.
        group: this rank and the others.
        class_names: of the model; where ``labels`` name further classes, these too.
        topic: what its events are called.
        labels: the model's number of each class of the data set, where they are not the same.
        scores: keeps what each image got.

    Raises:
        DataError: there are more ranks than images.
        JobError: the counts do not add up to the split, which would make the result a lie.
        Interrupted: this process was asked to stop.
    """
    if group.world_size > len(split):
        raise DataError(
            f"runtime.world_size={group.world_size} is more than the {len(split)} images of split "
            f"{split.name!r}; lower runtime.world_size"
        )
    started = time.perf_counter()
    mine = eval_range(len(split), rank=group.rank, world_size=group.world_size)
    tally = Tally(len(class_names))
    if scores is not None:
        scores.begin(mine, len(split))
    network.set_train(False)
    for batch in _batches_at(mine, split, spec, config):
        if stop_requested():
            raise Interrupted(f"evaluation was stopped after {tally.seen} of {len(mine)} images")
        logits = network(batch.images).asnumpy()  # (N, num_classes)
        logits, true = logits[: batch.valid], batch.labels.asnumpy()[: batch.valid]
        true = true if labels is None else labels[true]
        tally.add(logits, true)
        if scores is not None:
            scores.add(logits, np.where(true < logits.shape[1], true, UNKNOWN))
        if group.is_first:
            done = min(len(split), tally.seen * group.world_size)
            emit(Event(topic, done=done, total=len(split)))
    confusion = tally.sum_over(group)
    if tally.seen != len(split) or confusion.seen != len(split):
        raise JobError(f"evaluation saw {tally.seen} images of {len(split)}; please report this")
    calibration = scores.calibration(group) if scores is not None else None
    return EvalResult(
        seen=tally.seen,
        correct1=confusion.correct,
        correct5=tally.correct5,
        loss=tally.loss_sum / max(1, tally.known),
        confusion=confusion,
        class_names=list(class_names),
        split=split.name,
        world_size=group.world_size,
        seconds=round(time.perf_counter() - started, 3),
        calibration=calibration,
    )


def _batches_at(
    indices: range, split: Split, spec: PreprocessSpec, config: RunConfig
) -> Iterator[Batch]:
    return batches(
        split,
        indices,
        transforms=eval_transforms(spec),
        batch_size=config.evaluate.per_device_batch_size,
        workers=config.data.workers,
        check_share=config.data.check_share,
        seed=config.train.seed,
        background=spec.background,
    )


def evaluate_checkpoint(
    config: RunConfig,
    group: Group,
    *,
    checkpoint: Checkpoint,
    data_dir: Path,
    split: str,
    labels: Sequence[int] | None = None,
    out: Path | None = None,
) -> EvalResult:
    """Evaluate a checkpoint, with the variant, classes and preprocessing of its sidecar.

    ``data.image_size``, where it is set, takes the place of the sidecar's.

    Args:
        config: processes, batch size and workers.
        group: this rank and the others.
        checkpoint: the model.
        data_dir: a staged data set.
        split: of the data set.
        labels: the model's number of each class of the data set, ``UNKNOWN`` where it does not know the
            class; by default both must have the same classes. Images of unknown classes count as wrong.
        out: folder for the answers to each image.

    Raises:
        CheckpointError: it does not hold exactly the parameters of its variant.
        DataError: the data set is missing or has other classes.
    """
    sidecar = checkpoint.sidecar
    dataset = open_dataset(data_dir)
    if labels is None and dataset.class_names != sidecar.class_names:
        raise DataError(
            f"checkpoint {checkpoint.path} knows {sidecar.num_classes} classes "
            f"({_first_names(sidecar.class_names)}), data set {data_dir} has {dataset.num_classes} "
            f"({_first_names(dataset.class_names)}); evaluate on data with the same class names, or name the "
            "model's class of each with --classes FILE.csv"
        )
    spec = sidecar.preprocess
    if config.data.image_size is not None:
        spec = replace(spec, image_size=config.data.image_size)

    def tell(line: str) -> None:
        if group.is_first:
            emit(Event(TOPIC, line))

    names, numbers = _one_list(sidecar.class_names, dataset.class_names, labels)
    images = split_as(dataset, split, config.data)
    scores = Scores(temperature=sidecar.temperature)
    result = evaluate_network(
        load_network(
            checkpoint,
            library=operators(config.runtime.kernels, config.runtime.device, tell),
            is_calibrated=False,
        ),
        images,
        spec,
        config,
        group,
        class_names=names,
        labels=numbers,
        scores=scores,
    )
    result = replace(result, checkpoint_sha256=sidecar.sha256, data_digest=dataset.digest)
    if out is not None:
        true = images.labels if numbers is None else numbers[images.labels]
        true = np.where(true < sidecar.num_classes, true, UNKNOWN).astype(np.int32)
        scores.write(
            out,
            group,
            true,
            result=result,
            image_size=spec.image_size,
            classes=sidecar.num_classes,
        )
    return result


def _one_list(
    model: tuple[str, ...], data: tuple[str, ...], labels: Sequence[int] | None
) -> tuple[tuple[str, ...], NDArray[np.int32] | None]:
    """The model's classes and after them those that only the data set has; a number for each of these."""
    if labels is None:
        return model, None
    unknown = [name for name, number in zip(data, labels, strict=True) if number < 0]
    further = itertools.count(len(model))
    numbers = [number if number >= 0 else next(further) for number in labels]
    return (*model, *unknown), np.array(numbers, np.int32)


def _first_names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
