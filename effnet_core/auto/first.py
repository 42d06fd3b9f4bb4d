"""The probe of a run: started by the parent before training, in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effnet_core.auto.estimate import estimate, told_again, with_speed
from effnet_core.auto.facts import Found, look
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Dataset
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import CheckpointError, DataError
from effnet_core.events import Event, emit, listen
from effnet_core.infer import engines
from effnet_core.jobs.job import (
    PROBE_NAME,
    RESULT_NAME,
    ProbeJob,
    TrainJob,
    read_job,
    write_result,
)
from effnet_core.jobs.launch import run_job, write_job
from effnet_core.results import EvalResult, TrainResult
from effnet_core.results.answers import ANSWERS_NAME
from effnet_core.results.paired import Paired, compare_counts
from effnet_core.storage.cache import cache_dir, cached
from effnet_core.system.files import atomic_path, read_json, sha256_of_text
from effnet_core.system.locks import alone
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint, sidecar_path

TOPIC = "probe"


@dataclass(frozen=True)
class Probed:
    """What a probe has found."""

    evaluation: EvalResult
    """The evaluation of the probe's model, which lies in ``probe/`` in the run's folder."""
    mirror: Paired | None = None
    """Its answers to mirrored images, against those to the same images as they are, where that was tried."""


def run_probe(config: RunConfig, job: TrainJob, run_dir: Path) -> Probed:
    """Fit a classifier on the features of ``model.weights``, unless the run's folder holds it already.

    Raises:
        EffnetError: as the engine, the job and the launcher.
    """
    folder = run_dir / PROBE_NAME
    checkpoint = open_checkpoint(Path(str(config.model.weights)))
    if (found := _finished(folder, checkpoint, job)) is None:
        engine, file = _engine(checkpoint, config)
        asked = ProbeJob(
            checkpoint.path.resolve(),
            checkpoint.sha256,
            engine=engine,
            engine_file=file,
            data_dir=job.data_dir,
        )
        runtime = config.runtime.model_copy(
            update={"world_size": 1, "hosts": (), "host_index": None}
        )
        found = run_job(asked, config.model_copy(update={"runtime": runtime}), folder)
    result = EvalResult.from_dict(found["evaluation"])
    emit(
        Event(
            TOPIC,
            f"probe: top-1 {result.top1:.2%} on {result.seen:,} images of {result.split}, after "
            f"{found['seconds']:.0f} s; a model to use already: {folder / checkpoints.MODEL_NAME}",
            1,
            1,
            {"kind": "probe", "top1": result.top1},
        )
    )
    if (cells := found.get("mirror")) is None:
        return Probed(result)
    both, lost, won = (cells[name] for name in ("both", "lost", "won"))
    return Probed(result, compare_counts(both, lost, won, cells["images"] - both - lost - won))


def _finished(folder: Path, checkpoint: Checkpoint, job: TrainJob) -> dict[str, Any] | None:
    """The answer of an earlier probe of the same weights and pictures."""
    try:
        before = read_job(folder)
        answer: dict[str, Any] = read_json(folder / RESULT_NAME)
        model = open_checkpoint(folder / checkpoints.MODEL_NAME)
        same = isinstance(before, ProbeJob) and before.checkpoint_sha256 == checkpoint.sha256
        if same and model.sidecar.data_digest == job.data_digest:
            return answer
    except (DataError, CheckpointError, OSError):
        pass
    return None


def _engine(checkpoint: Checkpoint, config: RunConfig) -> tuple[str, Path | None]:
    """What computes features of images that are made as the run makes them.

    The file of an engine is made for one size of images, one mean and one deviation; where those are not
    the weights' own, it is made of a copy of the weights that says so.
    """
    spec, own = PreprocessSpec.from_config(config), checkpoint.sidecar.preprocess
    if (spec.image_size, spec.mean, spec.std) == (own.image_size, own.mean, own.std):
        return engines.prepare(checkpoint, config)
    if engines.choose(config) == "mindspore":
        return "mindspore", None
    key = sha256_of_text(checkpoint.sha256, repr(spec))[:16]
    path = cached(cache_dir("weights") / f"as-{key}.ckpt")
    with alone(path):
        if not sidecar_path(path).is_file():
            changed = replace(checkpoint.sidecar, preprocess=spec)
            checkpoints.save_arrays(path, checkpoint.load(), changed)
    return engines.prepare(open_checkpoint(path), config)


def deliver_probe(
    config: RunConfig, job: TrainJob, run_dir: Path, result: EvalResult, *, seconds: float
) -> TrainResult:
    """Let the probe's model be the finished one of a run that trains nothing."""
    write_job(job, config, run_dir)
    source, target = (folder / checkpoints.MODEL_NAME for folder in (run_dir / PROBE_NAME, run_dir))
    for path in (target, sidecar_path(target), target.with_name(ANSWERS_NAME)):
        with atomic_path(path) as temporary:
            shutil.copyfile(source.parent / path.name, temporary)
    answer = TrainResult(
        checkpoint=str(target.resolve()),
        sha256=result.checkpoint_sha256,
        epochs=0,
        steps=0,
        resumed_from_step=0,
        images_per_s=0.0,
        evaluation=result,
        seconds=round(seconds, 3),
        probe_top1=result.top1,
    )
    write_result(run_dir, answer.to_dict())
    return answer


@contextmanager
def speed_of_features() -> Iterator[list[tuple[int, float]]]:
    """Number of images, and images a second, of features that are computed inside the block."""
    heard: list[tuple[int, float]] = []

    def hear(event: Event) -> None:
        if event.metrics.get("kind") == "features" and event.metrics["images"]:
            heard.append((event.metrics["images"], event.metrics["images_per_s"]))

    with listen(hear):
        yield heard


def estimate_again(config: RunConfig, dataset: Dataset, speed: list[tuple[int, float]]) -> None:
    """Say how long the training takes, where this machine's speed has been measured."""
    if not speed or not config.auto.enabled or config.runtime.device != "CPU":
        return
    found = Found(config.model.variant, "", str(config.model.weights), "")
    facts = with_speed(look(config, dataset, found), config, max(speed)[1])
    measured = estimate(config, facts)
    seconds = {"probe_s": 0.0, "training_s": measured.training_s}
    emit(Event("auto", told_again(config, measured), metrics={"kind": "estimate", **seconds}))
