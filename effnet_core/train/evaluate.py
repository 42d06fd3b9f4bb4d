"""Accuracy of a network over every image of a split, exact on any number of ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
from effnet_core.train.tally import Tally
from effnet_core.weights.checkpoint import Checkpoint
from effnet_core.weights.load import load_network

STAGE = "evaluate"


def evaluate_network(
    network: EfficientNet,
    split: Split,
    spec: PreprocessSpec,
    config: RunConfig,
    group: Group,
    *,
    class_names: tuple[str, ...],
    stage: str = STAGE,
) -> EvalResult:
    """Evaluate a network that is in memory.

    Each rank counts over its own range of images; the counts are summed once, at the end, so ranks may
    have different numbers of batches.

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
    network.set_train(False)
    for batch in _batches_at(mine, split, spec, config):
        if stop_requested():
            raise Interrupted(f"evaluation was stopped after {tally.seen} of {len(mine)} images")
        logits = network(batch.images).asnumpy()  # (N, num_classes)
        tally.add(logits[: batch.valid], batch.labels.asnumpy()[: batch.valid])
        if group.is_first:
            done = min(len(split), tally.seen * group.world_size)
            emit(Event(stage, done=done, total=len(split)))
    confusion = tally.sum_over(group)
    if tally.seen != len(split) or confusion.seen != len(split):
        raise JobError(f"evaluation saw {tally.seen} images of {len(split)}; please report this")
    return EvalResult(
        seen=tally.seen,
        correct1=confusion.correct,
        correct5=tally.correct5,
        loss=tally.loss_sum / tally.seen,
        confusion=confusion,
        class_names=list(class_names),
        split=split.name,
        world_size=group.world_size,
        seconds=round(time.perf_counter() - started, 3),
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
    config: RunConfig, group: Group, *, checkpoint: Checkpoint, data_dir: Path, split: str
) -> EvalResult:
    """Evaluate a checkpoint, with the variant, classes and preprocessing of its sidecar.

    ``data.image_size``, where it is set, takes the place of the sidecar's.

    Raises:
        CheckpointError: it does not hold exactly the parameters of its variant.
        DataError: the data set is missing or has other classes.
    """
    sidecar = checkpoint.sidecar
    dataset = open_dataset(data_dir)
    if dataset.class_names != sidecar.class_names:
        raise DataError(
            f"checkpoint {checkpoint.path} knows {sidecar.num_classes} classes "
            f"({_first_names(sidecar.class_names)}), data set {data_dir} has {dataset.num_classes} "
            f"({_first_names(dataset.class_names)}); evaluate on data with the same class names"
        )
    spec = sidecar.preprocess
    if config.data.image_size is not None:
        spec = replace(spec, image_size=config.data.image_size)

    def tell(line: str) -> None:
        if group.is_first:
            emit(Event(STAGE, line))

    result = evaluate_network(
        load_network(
            checkpoint,
            library=operators(config.runtime.kernels, config.runtime.device, tell),
        ),
        split_as(dataset, split, config.data),
        spec,
        config,
        group,
        class_names=dataset.class_names,
    )
    facts = {"checkpoint_sha256": sidecar.sha256, "data_digest": dataset.digest}
    return EvalResult(**{**vars(result), **facts})


def _first_names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
