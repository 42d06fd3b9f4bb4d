"""Publication and promotion with the whole gate: production is measured where that was not done before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.errors import DataError, QuantizationRefused
from effnet_core.events import Event, emit
from effnet_core.infer.quantize import quantize
from effnet_core.jobs.job import RESULT_NAME, TrainJob, read_job
from effnet_core.model_store.production import promote as move_production
from effnet_core.model_store.publication import PublishedVersion, publish_model
from effnet_core.model_store.versions import cached_model, resolve_version
from effnet_core.quality.champion import (
    CACHE_NAME,
    Comparison,
    answers_beside,
    measured_answers,
    remember,
)
from effnet_core.quality.drift import write_reference
from effnet_core.results import EvalResult, TrainResult
from effnet_core.results.answers import Answers
from effnet_core.storage.cache import cache_dir
from effnet_core.weights import quantized
from effnet_core.weights.checkpoint import MODEL_NAME, Checkpoint, open_checkpoint


def publish(
    run_dir: Path,
    *,
    config: RunConfig,
    evaluation: Path | None = None,
    data_dir: Path | None = None,
    version: str | None = None,
    promote: bool = True,
) -> PublishedVersion:
    """Publish a run's model, and promote it if it compares well enough with production.

    Args:
        run_dir: folder of a finished training run.
        config: store, gate, and how production is measured on the images of the evaluation.
        evaluation: ``result.json`` of an evaluation, or its folder; the run's own by default.
        data_dir: the staged data set that it was measured on; the one of the run by default.
        version: name of the version; time and digest by default.
        promote: whether to try the gate.

    Raises:
        EffnetError: as ``publish_model``, and as an evaluation of production.
    """
    if evaluation is None:
        file = run_dir / RESULT_NAME
        result = TrainResult.read(file).evaluation
    else:
        file = evaluation / RESULT_NAME if evaluation.is_dir() else evaluation
        result = EvalResult.read(file)
    checkpoint = open_checkpoint(run_dir / MODEL_NAME)
    found = _comparison(checkpoint, result, config, file=file, data_dir=data_dir or run_dir)
    if found is not None:
        held_out = open_dataset(found.data_dir).split(found.split)
        write_reference(run_dir, checkpoint, held_out, config=config)
    if config.storage.int8:
        _add_int8(checkpoint, found, config)
    return publish_model(
        run_dir,
        evaluation=result,
        storage=config.storage,
        gate=config.evaluate,
        version=version,
        promote=promote,
        compare=found if promote else None,
    )


def _add_int8(checkpoint: Checkpoint, found: Comparison | None, config: RunConfig) -> None:
    """Make the int8 network that is published too, where the data set is at hand and it is good enough."""
    if found is None:
        emit(Event("publish", "int8 is not published: its data set is not at hand to measure it"))
        return
    if quantized.path_of(checkpoint) is not None:
        return
    try:
        quantize(
            checkpoint,
            found.data_dir,
            config=config,
            max_drop=config.storage.int8_max_drop,
            images=config.storage.int8_images,
            split=found.split,
        )
    except QuantizationRefused as refusal:
        emit(Event("publish", str(refusal)))


def promote(
    version: str,
    *,
    config: RunConfig,
    data_dir: Path | None = None,
    force_reason: str | None = None,
) -> dict[str, Any]:
    """Make a published version the production version, if the gate lets it through.

    Args:
        version: one that is published.
        config: store, gate, and how both are measured.
        data_dir: staged images to compare both on, in the split that the version was measured on.
        force_reason: promote whatever the gate says.

    Returns:
        The content of ``production.json``.

    Raises:
        EffnetError: as ``production.promote``, and as an evaluation.
    """
    compare = None
    if data_dir is not None:
        dataset = open_dataset(data_dir)
        split = str(resolve_version(config.storage, version)["metrics"]["split"])
        cache = cache_dir(CACHE_NAME)
        compare = Comparison(
            lambda: measured_answers(
                cached_model(config.storage, version), dataset, split, config=config, cache=cache
            ),
            data_dir,
            split,
            config,
            cache,
        )
    return move_production(
        config.storage, version, config.evaluate, force_reason=force_reason, compare=compare
    )


def _comparison(
    checkpoint: Checkpoint,
    result: EvalResult,
    config: RunConfig,
    *,
    file: Path,
    data_dir: Path,
) -> Comparison | None:
    """What compares a model with production on the images that it was measured on, if these are at hand.

    Args:
        checkpoint: the model.
        result: its evaluation.
        config: how production is measured.
        file: of the result; the answers to each image may lie beside it.
        data_dir: a staged data set, or the folder of the run that was trained on it.
    """
    try:
        job = read_job(data_dir) if (data_dir / MODEL_NAME).exists() else None
        dataset = open_dataset(job.data_dir if isinstance(job, TrainJob) else data_dir)
        if dataset.digest != result.data_digest:
            raise DataError(f"{dataset.root} is another data set now, {dataset.digest[:12]}")
    except DataError as gone:
        text = f"production cannot be measured on data set {result.data_digest[:12]} here: {gone}"
        emit(Event("publish", text))
        return None
    cache, split = cache_dir(CACHE_NAME), result.split
    beside = answers_beside(file, checkpoint.sha256, dataset, split)
    if beside is not None:
        remember(beside, dataset, cache)

    def challenger() -> Answers:
        return measured_answers(checkpoint, dataset, split, config=config, cache=cache)

    return Comparison(challenger, dataset.root, split, config, cache)
