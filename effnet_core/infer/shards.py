"""The child's side of batch inference: shards in, part files out."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from effnet_core.config.schema import RunConfig
from effnet_core.data.sources.finding import turned_out_other
from effnet_core.errors import Interrupted
from effnet_core.events import Event, emit, emit_sometimes
from effnet_core.infer.engines.tuning import CACHE_NAME, SAMPLE_IMAGES, TUNING_NAME, best_decoders
from effnet_core.infer.output import write_part
from effnet_core.infer.pipeline import Prediction, Predictor, Rejection, Wanted, iter_predictions
from effnet_core.infer.plan import PARTS_NAME, SHARDS_NAME, output_lost, read_inputs
from effnet_core.infer.readers import ImageReader, open_reader
from effnet_core.jobs.job import PredictJob, Shard
from effnet_core.jobs.signals import stop_requested
from effnet_core.kernels.resize import Resizer, resizer
from effnet_core.results import ShardResult
from effnet_core.results.drift import Observed, Reference
from effnet_core.storage.cache import cache_dir, cached
from effnet_core.system.files import write_json
from effnet_core.system.machine import available_cores
from effnet_core.text import format_seconds

STAGE = "predict"
MANY_IMAGES = 1000
"""From so many on, native code that resizes pictures is worth its test, and once its compilation."""
OBSERVED_SUFFIX = ".observed.npz"
"""Of what each shard has kept of its pictures, beside its counts."""


def predict_shards(predictor: Predictor, job: PredictJob, config: RunConfig) -> dict[str, Any]:
    """Label the shards of a job and write a part file for each.

    Args:
        predictor: an engine with the model.
        job: what to label, and where answers go.
        config: settings of inference and storage.

    Returns:
        JSON-ready counts of the shards. Where too many files are unreadable, no more than those of the
        shards up to there.

    Raises:
        Interrupted: this process was asked to stop; finished shards stay.
        StoreError: the source is lost; finished shards stay.
    """
    source = open_reader(job.input_root, config.storage)
    total = sum(shard.stop - shard.start for shard in job.shards)
    resize = resizer_for(total, config)
    config = _with_decoders(predictor, source, job, config, resize)
    done = rejected = 0
    results = []
    began = time.monotonic()
    for shard in job.shards:
        result = _predict_shard(
            predictor, source, shard, job, config, resize, done=done, total=total
        )
        results.append(vars(result.counts()))
        done += shard.stop - shard.start
        rejected += len(result.rejected)
        told = f"labelled {result.labelled} images, set aside {len(result.rejected)}, wrote {shard.part}"
        if len(results) == 1 and done < total:
            told += _estimate(done, total - done, time.monotonic() - began)
        emit(Event(STAGE, told, done, total))
        if rejected > job.allowed_errors:
            break
    return {"shards": results}


def resizer_for(images: int, config: RunConfig) -> Resizer | None:
    """What resizes so many pictures in place of Pillow, which serves where they are few."""
    if images < MANY_IMAGES:
        return None
    return resizer(config.runtime.kernels, lambda line: emit(Event(STAGE, line)))


def observe(reference: Reference, rows: list[Prediction]) -> Observed:
    """What is kept of some answers, to compare the pictures with those that the model was made for."""
    features = np.stack([row.features for row in rows if row.features is not None])
    return Observed.of(
        reference,
        features,
        np.array([row.class_ids[0] for row in rows]),
        np.array([row.probs[0] for row in rows]),
        np.array([row.looks for row in rows]),
        [row.path for row in rows],
    )


def _estimate(done: int, left: int, seconds: float) -> str:
    """What the rest of a run takes, after its first shard."""
    rate = done / seconds
    return f"; at {rate:.1f} images/s the other {left:,} images take {format_seconds(left / rate)}"


def _with_decoders(
    predictor: Predictor,
    source: ImageReader,
    job: PredictJob,
    config: RunConfig,
    resize: Resizer | None,
) -> RunConfig:
    """Settings with a number of decoders: that asked for, or the fastest over the first files."""
    infer = config.infer
    if (
        config.runtime.device == "GPU" and infer.decoders is None
    ):  # the cores have nothing else to do
        few = infer.model_copy(update={"decoders": len(available_cores())})
        return config.model_copy(update={"infer": few})
    first = job.shards[0]
    paths = read_inputs(job.output, first.start, first.stop)[:SAMPLE_IMAGES]
    if infer.decoders is not None or not predictor.workers or len(paths) < SAMPLE_IMAGES:
        return config
    key = f"{job.engine} {infer.precision} {job.checkpoint_sha256} {predictor.workers}"
    key += " native" if resize else ""
    readers = infer.readers or source.readers
    wanted = Wanted(fast_decode=infer.fast_decode, max_pixels=config.data.max_pixels, resize=resize)
    notes = cached(cache_dir(CACHE_NAME) / TUNING_NAME)
    decoders = best_decoders(key, notes, predictor, source, paths, wanted, readers=readers)
    return config.model_copy(update={"infer": infer.model_copy(update={"decoders": decoders})})


def _predict_shard(
    predictor: Predictor,
    source: ImageReader,
    shard: Shard,
    job: PredictJob,
    config: RunConfig,
    resize: Resizer | None,
    *,
    done: int,
    total: int,
) -> ShardResult:
    infer, output = config.infer, job.output
    reference = Reference.read(job.reference) if job.reference else None
    wanted = Wanted(
        infer.top_k,
        infer.probabilities,
        infer.features or reference is not None,
        infer.fast_decode,
        config.data.max_pixels,
        looks=reference is not None,
        resize=resize,
    )
    rows: list[Prediction] = []
    rejected: list[dict[str, str]] = []
    other: list[dict[str, str]] = []
    latency_ms: list[float] = []
    began, started = time.time(), time.perf_counter()
    micro_batches = iter_predictions(
        predictor,
        source,
        read_inputs(output, shard.start, shard.stop),
        wanted,
        readers=infer.readers or source.readers,
        decoders=infer.decoders or 0,
    )
    for micro_batch in micro_batches:
        if stop_requested():
            raise Interrupted(
                f"batch inference was stopped after {done} of {total} images; the same command "
                "continues with the shards that are missing"
            )
        for answer in micro_batch.answers:
            if isinstance(answer, Rejection):
                row = {"path": answer.path, "reason": answer.reason}
                is_other = turned_out_other(answer.path, answer.reason)
                (other if is_other else rejected).append(row)
            else:
                rows.append(answer)
        done += len(micro_batch.answers)
        latency_ms.append(round(1000 * micro_batch.seconds / len(micro_batch.answers), 3))
        emit_sometimes(STAGE, done, total)
    part = output / PARTS_NAME / shard.part
    try:
        if reference is not None and rows:
            observe(reference, rows).save(output / SHARDS_NAME / f"{part.name}{OBSERVED_SUFFIX}")
            if not infer.features:
                rows = [replace(row, features=None) for row in rows]
        write_part(part, rows, model_sha256=job.checkpoint_sha256)
        result = ShardResult(
            part=str(part),
            start=shard.start,
            stop=shard.stop,
            labelled=len(rows),
            rejected=rejected,
            other=other,
            histogram=dict(Counter(row.class_names[0] for row in rows)),
            started=round(began, 3),
            seconds=round(time.perf_counter() - started, 3),
            latency_ms=latency_ms,
        )
        write_json(output / SHARDS_NAME / f"{part.name}.json", result.to_dict())
    except OSError as cause:
        raise output_lost(output, cause) from cause
    return result
