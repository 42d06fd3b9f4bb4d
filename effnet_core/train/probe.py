"""A classifier on the features of weights: the first answer of a run, in seconds, and where it starts from.

Knows no MindSpore: whoever calls gives what computes features.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.config.schema import InferConfig, RunConfig
from effnet_core.data.manifest import Split, open_dataset
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.events import Event, emit
from effnet_core.results import EvalResult
from effnet_core.results.answers import ANSWERS_NAME, Answers, Origin, rank_answers
from effnet_core.results.calibration import calibrate, fit_calibration
from effnet_core.system.machine import available_cores
from effnet_core.train.balance import weights_of_classes
from effnet_core.train.head import Head, fit_head
from effnet_core.train.tally import Tally
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import CLASSIFIER, Checkpoint, Sidecar

TOPIC = "probe"

WORTH_MEASURING = 5_000
"""Images from which on the fastest use of the cores is worth being measured first."""
MIRRORED_IMAGES = 1_000
"""How many validation images at most are tried mirrored."""
USUAL_BATCH = 4
"""Images in a call of the engine, else."""

FeaturesOf = Callable[[Split], NDArray[np.float32]]


def probe(
    config: RunConfig,
    *,
    checkpoint: Checkpoint,
    data_dir: Path,
    folder: Path,
    features_of: FeaturesOf,
    mirrored_features_of: FeaturesOf | None = None,
) -> dict[str, Any]:
    """Fit a classifier, evaluate it on every image, and save it with the weights as the folder's model.

    Args:
        config: settings of the run; how an image becomes input is theirs.
        checkpoint: weights of any classes.
        data_dir: a staged data set.
        folder: where ``model.ckpt`` goes.
        features_of: computes the features of a split.
        mirrored_features_of: the same of pictures as in a mirror; where given, the answer says how many of
            the validation images are answered rightly only as they are, and only mirrored.

    Returns:
        JSON-ready: the evaluation, the penalty and the seconds.

    Raises:
        DataError: a split is missing or empty.
        CheckpointError: the model cannot be written.
    """
    started = time.perf_counter()
    dataset = open_dataset(data_dir)
    train, val = dataset.split(config.data.train_split), dataset.split(config.data.eval_split)
    features = features_of(train)
    emit(Event(TOPIC, f"{len(train):,} images have features; fitting the classifier"))
    weights = weights_of_classes(config.train.class_weights, train, dataset.class_names)
    head = fit_head(features, train.labels, dataset.num_classes, class_weights=weights)
    logits = head.logits(features_of(val))
    result = _evaluate(logits, val, dataset.class_names)
    fits = config.train.calibrate
    calibration = (
        fit_calibration(logits, val.labels) if fits else calibrate(logits, val.labels, 1.0)
    )
    temperature = calibration.temperature
    sidecar = Sidecar(
        variant=checkpoint.sidecar.variant,
        class_names=dataset.class_names,
        preprocess=PreprocessSpec.from_config(config),
        bn_momentum=config.model.bn_momentum,
        bn_eps=checkpoint.sidecar.bn_eps,
        padding=checkpoint.sidecar.padding,
        temperature=temperature,
        epoch=0,
        step=0,
        training_state=False,
        data_digest=dataset.digest,
        metrics={"top1": result.top1, "top5": result.top5, "loss": result.loss},
    )
    written = checkpoints.save_arrays(
        folder / checkpoints.MODEL_NAME, with_head(checkpoint, head), sidecar
    )
    result = EvalResult(
        **{
            **vars(result),
            "checkpoint_sha256": written.sha256,
            "data_digest": dataset.digest,
            "seconds": round(time.perf_counter() - started, 3),
            "calibration": calibration,
        }
    )
    best = rank_answers(logits, val.labels, temperature=temperature)
    origin = Origin(
        written.sha256,
        dataset.digest,
        val.name,
        sidecar.preprocess.image_size,
        dataset.num_classes,
        calibrated=temperature != 1.0,
    )
    Answers(origin, val.labels, *best).save(folder / ANSWERS_NAME)
    answer = {"evaluation": result.to_dict(), "penalty": head.penalty}
    if mirrored_features_of is not None:
        answer["mirror"] = _mirror(val, logits, head, mirrored_features_of)
    return {**answer, "seconds": round(time.perf_counter() - started, 3)}


def _mirror(
    split: Split, logits: NDArray[np.float32], head: Head, features_of: FeaturesOf
) -> dict[str, int]:
    """What becomes of right answers where some of the images are mirrored."""
    chosen = np.unique(np.linspace(0, len(split) - 1, MIRRORED_IMAGES).astype(int))
    part = replace(
        split,
        image_ids=tuple(split.image_ids[i] for i in chosen),
        paths=tuple(split.paths[i] for i in chosen),
        labels=split.labels[chosen],
        marks=split.marks[chosen],
    )
    as_is = logits[chosen].argmax(axis=1) == part.labels
    mirrored = head.logits(features_of(part)).argmax(axis=1) == part.labels
    both, lost = int((as_is & mirrored).sum()), int((as_is & ~mirrored).sum())
    return {"images": len(part), "both": both, "lost": lost, "won": int((~as_is & mirrored).sum())}


def without_measuring(infer: InferConfig, images: int) -> InferConfig:
    """Settings with which an engine starts at once on a few images."""
    if images > WORTH_MEASURING:
        return infer
    threads, batch = infer.engine_threads or len(available_cores()), infer.batch_size or USUAL_BATCH
    return infer.model_copy(update={"engine_threads": threads, "batch_size": batch})


def with_head(checkpoint: Checkpoint, head: Head) -> dict[str, NDArray[Any]]:
    """The weights of a checkpoint with another classifier, without training state."""
    arrays = {
        name: array
        for name, array in checkpoint.load().items()
        if not name.startswith(checkpoints.OPTIMIZER_PREFIXES)
    }
    return {**arrays, **dict(zip(CLASSIFIER, (head.weight, head.bias), strict=True))}


def _evaluate(
    logits: NDArray[np.float32], split: Split, class_names: tuple[str, ...]
) -> EvalResult:
    tally = Tally(len(class_names))
    tally.add(logits, split.labels)
    confusion = tally.pairs.total()
    return EvalResult(
        seen=tally.seen,
        correct1=confusion.correct,
        correct5=tally.correct5,
        loss=tally.loss_sum / tally.seen,
        confusion=confusion,
        class_names=list(class_names),
        split=split.name,
    )
