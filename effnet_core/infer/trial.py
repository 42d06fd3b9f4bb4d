"""The child's side of choosing an engine: the same pictures through each, in turns, until it is clear.

Pictures are decoded once and given to all engines, a few at a time, so that whatever else the machine
does hits all alike. An engine is dropped as soon as it is slower than the first one, or as soon as its
answers are known to differ too often.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta

from effnet_core.config.schema import RunConfig
from effnet_core.data.images import ImageProblem
from effnet_core.data.preprocess import PixelArray, decode_square
from effnet_core.errors import ConfigError, EffnetError
from effnet_core.events import Event, Threads, emit
from effnet_core.infer.engines import load_file
from effnet_core.infer.pipeline import FloatArray, Predictor, softmax
from effnet_core.infer.plan import planned_reader
from effnet_core.infer.readers import ImageReader
from effnet_core.infer.shards import resizer_for
from effnet_core.jobs.job import EngineChoice, TrialJob
from effnet_core.jobs.signals import leave_at_once
from effnet_core.results.engines import (
    CONFIDENCE,
    DIFFERENT,
    FINE,
    IMPOSSIBLE,
    SLOWER,
    UNDECIDED,
    Tried,
)
from effnet_core.system.machine import available_cores
from effnet_core.weights.checkpoint import Checkpoint

STAGE = "predict"
MICRO_BATCH = 4
CALLS = 8
"""Of each worker on the pictures that are decoded at once."""
FIRST_LOOK = 192
"""Pictures after which slower engines are dropped; those before the first half of them warm up."""
FASTER = 1.03
"""A choice must be so many times as fast as the first one to be worth a look at its answers."""


@dataclass
class _Runner:
    """An engine in the trial."""

    tried: Tried
    predictor: Predictor
    seconds: float = 0.0
    first_seconds: float = 0.0
    """Of the first engine over the same pictures."""
    timed: int = 0


def try_engines(job: TrialJob, checkpoint: Checkpoint, config: RunConfig) -> dict[str, Any]:
    """Compare engines over some pictures.

    Args:
        job: the engines, the pictures, and what counts as the same answer.
        checkpoint: the model.
        config: settings of inference.

    Returns:
        ``tried``, the fields of a ``Tried`` for each choice, in their order.
    """
    leave_at_once("choosing an engine was stopped; the same command starts it again")
    runners, results = [], []
    for choice in job.choices:
        found = Tried(choice.engine, choice.precision)
        results.append(found)
        try:
            runners.append(_Runner(found, _load(choice, checkpoint, config)))
        except EffnetError as cause:
            if not runners:
                raise
            found.verdict, found.reason = IMPOSSIBLE, str(cause)
    reader = planned_reader(job.planned, config.storage)
    reader.look_up(job.paths)
    emit(Event(STAGE, f"comparing {len(runners)} engines over up to {len(job.paths):,} pictures"))
    with Threads(len(available_cores())) as pool:
        _compare(runners, _decoded(job, reader, checkpoint, config, pool), pool, job)
    return {"tried": [vars(found) for found in results]}


def _load(choice: EngineChoice, checkpoint: Checkpoint, config: RunConfig) -> Predictor:
    if choice.file is None:
        raise ConfigError(f"{choice} runs no file, and cannot be tried")
    infer = config.infer.model_copy(update={"engine": choice.engine, "precision": choice.precision})
    return load_file(
        choice.engine,
        choice.file,
        checkpoint.sidecar,
        infer,
        workers=len(available_cores()),
        micro_batch=MICRO_BATCH,
    )


def _decoded(
    job: TrialJob, reader: ImageReader, checkpoint: Checkpoint, config: RunConfig, pool: Threads
) -> Iterator[PixelArray]:
    """The pictures that can be read, as squares, some at a time."""
    spec, resize = checkpoint.sidecar.preprocess, resizer_for(len(job.paths), config)

    def square(path: str) -> PixelArray | None:
        try:
            return decode_square(
                reader.read(path),
                spec,
                fast=config.infer.fast_decode,
                max_pixels=config.data.max_pixels,
                resize=resize,
            )
        except ImageProblem:
            return None

    size = CALLS * MICRO_BATCH * len(available_cores())
    for start in range(0, len(job.paths), size):
        found = [
            one for one in pool.map(square, job.paths[start : start + size]) if one is not None
        ]
        if found:
            yield np.stack(found)


def _compare(
    runners: Sequence[_Runner], pieces: Iterator[PixelArray], pool: Threads, job: TrialJob
) -> None:
    first, live = runners[0], list(runners[1:])
    first.tried.verdict, first.tried.times = FINE, 1.0
    for pixels in pieces:
        if not live:
            break
        warm = first.tried.pictures >= FIRST_LOOK // 2
        for runner in (first, *live):
            began = time.perf_counter()
            answers = _answers(runner.predictor, pixels, pool)
            seconds = time.perf_counter() - began
            if runner is first:
                of_first, seconds_of_first = answers, seconds
                first.tried.pictures += len(pixels)
            else:
                _count(runner.tried, of_first, answers, job.within)
            if warm:
                runner.seconds += seconds
                runner.first_seconds += seconds_of_first
                runner.timed += len(pixels)
        done = first.tried.pictures
        if done >= FIRST_LOOK:
            for runner in live:
                runner.tried.verdict = _verdict(runner, job.share)
            live = [runner for runner in live if not runner.tried.verdict]
        emit(Event(STAGE, "", done, len(job.paths), {"trial": True}))
    for runner in runners:
        _note_speed(runner)
        runner.tried.verdict = runner.tried.verdict or UNDECIDED


def _answers(predictor: Predictor, pixels: PixelArray, pool: Threads) -> FloatArray:
    """Probabilities, (N, classes)."""
    parts = [pixels[i : i + MICRO_BATCH] for i in range(0, len(pixels), MICRO_BATCH)]
    return softmax(
        np.concatenate(list(pool.map(lambda some: predictor.forward(some).logits, parts)))
    )


def _count(tried: Tried, wanted: FloatArray, found: FloatArray, within: float) -> None:
    """Count pictures with another answer."""
    gaps = np.abs(wanted - found).max(axis=1)
    others = wanted.argmax(axis=1) != found.argmax(axis=1)
    tried.pictures += len(wanted)
    tried.other_class += int(others.sum())
    tried.differing += int((others | (gaps > within) | np.isnan(gaps)).sum())
    tried.largest = max(tried.largest, float(np.nan_to_num(gaps, nan=1.0).max()))


def _verdict(runner: _Runner, share: float) -> str:
    """How it ends for an engine, if that is clear by now."""
    tried = runner.tried
    if runner.timed and runner.first_seconds < FASTER * runner.seconds:
        return SLOWER
    if lowest_share(tried.differing, tried.pictures) > share:
        return DIFFERENT
    if highest_share(tried.differing, tried.pictures) <= share:
        return FINE
    return ""


def highest_share(differing: int, pictures: int) -> float:
    """The share of all pictures that differs at most, with 95 % confidence (Clopper and Pearson)."""
    if differing >= pictures:
        return 1.0
    return float(beta.ppf(CONFIDENCE, differing + 1, pictures - differing))


def lowest_share(differing: int, pictures: int) -> float:
    """The share of all pictures that differs at least, with 95 % confidence."""
    return (
        float(beta.ppf(1 - CONFIDENCE, differing, pictures - differing + 1)) if differing else 0.0
    )


def _note_speed(runner: _Runner) -> None:
    if runner.timed:
        runner.tried.images_per_s = round(runner.timed / runner.seconds, 2)
        runner.tried.times = round(runner.first_seconds / runner.seconds, 3)
