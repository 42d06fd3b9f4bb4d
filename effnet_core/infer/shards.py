"""The child's side of batch inference: shards in, part files out."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from effnet_core.config.schema import RunConfig
from effnet_core.data.sources.finding import turned_out_other
from effnet_core.errors import Interrupted
from effnet_core.events import Event, emit, emit_sometimes
from effnet_core.infer.engines.tuning import (
    CACHE_NAME,
    LONG_RUN_IMAGES,
    SAMPLE_IMAGES,
    TUNING_NAME,
    best_decoders,
)
from effnet_core.infer.entries import Entry
from effnet_core.infer.parts import NOTHING_KEPT, Kept
from effnet_core.infer.pipeline import Prediction, Predictor, Rejection, Wanted, iter_predictions
from effnet_core.infer.plan import output_lost
from effnet_core.infer.readers import ImageReader, MemberReader, open_reader
from effnet_core.infer.sinks import FolderSink, Sink
from effnet_core.jobs.job import PredictJob, Shard
from effnet_core.jobs.signals import stop_requested
from effnet_core.kernels.resize import Resizer, resizer
from effnet_core.results import ShardCounts, ShardResult
from effnet_core.results.drift import Observed, Reference
from effnet_core.storage.cache import cache_dir, cached
from effnet_core.system.machine import available_cores
from effnet_core.text import format_seconds

TOPIC = "predict"
MANY_IMAGES = 1000
"""From so many on, native code that resizes pictures is worth its test, and once its compilation."""


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
    sink = open_sink(job, config)
    source = open_reader(job.input_root, config.storage, infer=config.infer, members=job.members)
    total = sum(shard.stop - shard.start for shard in job.shards)
    resize = resizer_for(total, config)
    config = _with_decoders(predictor, source, sink, job, config, resize)
    done = rejected = 0
    results = []
    began = time.monotonic()
    with closing(sink.shards()) as shards:  # lets go of a lease when this is interrupted
        for shard in shards:
            counts = _predict_shard(
                predictor, source, sink, shard, job, config, resize, done=done, total=total
            )
            if counts is None:
                continue
            results.append(vars(counts))
            done += shard.stop - shard.start
            rejected += counts.rejected
            text = f"labelled {counts.labelled} images, set aside {counts.rejected}, wrote {shard.part}"
            if len(results) == 1 and done < total:
                text += _estimate(done, total - done, time.monotonic() - began)
            emit(Event(TOPIC, text, done, total))
            if rejected > job.allowed_errors:
                break
    results += [vars(counts) for counts in sink.others()]
    return {"shards": results}


def resizer_for(images: int, config: RunConfig) -> Resizer | None:
    """What resizes so many pictures in place of Pillow, which serves where they are few."""
    if images < MANY_IMAGES:
        return None
    return resizer(config.runtime.kernels, lambda line: emit(Event(TOPIC, line)))


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


def open_sink(job: PredictJob, config: RunConfig) -> Sink:
    """Where the answers of a job go."""
    if job.remote:
        from effnet_core.infer.bucket_sink import BucketSink

        return BucketSink(job, config)
    return FolderSink(job, config.infer.partition_by)


def _with_decoders(
    predictor: Predictor,
    source: ImageReader,
    sink: Sink,
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
    if infer.decoders is not None or not predictor.workers:
        return config
    if sum(shard.stop - shard.start for shard in job.shards) < LONG_RUN_IMAGES:
        return config
    entries = sink.entries(job.shards[0])[:SAMPLE_IMAGES]
    if isinstance(source, MemberReader):
        source.know(entries)
    paths = [entry.path for entry in entries]
    key = f"{job.engine} {infer.precision} {job.checkpoint_sha256} {predictor.workers}"
    key += " native" if resize else ""
    readers = infer.readers or source.readers
    wanted = Wanted(fast_decode=infer.fast_decode, max_pixels=config.data.max_pixels, resize=resize)
    notes = cached(cache_dir(CACHE_NAME) / TUNING_NAME)
    decoders = best_decoders(key, notes, predictor, source, paths, wanted, readers=readers)
    return config.model_copy(update={"infer": infer.model_copy(update={"decoders": decoders})})


@dataclass
class _Answers:
    """What was found about a shard's files."""

    rows: list[Prediction] = field(default_factory=list)
    kept: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    other: list[dict[str, str]] = field(default_factory=list)

    def add(self, answer: Prediction | Rejection, entry: Entry) -> None:
        """Take the answer to one file."""
        if isinstance(answer, Prediction):
            self.rows.append(answer)
            self.kept.append(entry.kept)
            return
        row = {"path": answer.path, "reason": answer.reason}
        is_other = turned_out_other(answer.path, answer.reason)
        (self.other if is_other else self.rejected).append(row)


def _predict_shard(
    predictor: Predictor,
    source: ImageReader,
    sink: Sink,
    shard: Shard,
    job: PredictJob,
    config: RunConfig,
    resize: Resizer | None,
    *,
    done: int,
    total: int,
) -> ShardCounts | None:
    """Label a shard and save its answers; None where another process has taken it over meanwhile."""
    infer = config.infer
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
    found = _Answers()
    latency_ms: list[float] = []
    began, started = time.time(), time.perf_counter()
    entries = sink.entries(shard)
    if isinstance(source, MemberReader):
        source.know(entries)
    micro_batches = iter_predictions(
        predictor,
        source,
        [entry.path for entry in entries],
        wanted,
        readers=infer.readers or source.readers,
        decoders=infer.decoders or 0,
    )
    waiting = iter(entries)
    for micro_batch in micro_batches:
        if stop_requested():
            raise Interrupted(
                f"batch inference was stopped after {done} of {total} images; the same command "
                "continues with the shards that are missing"
            )
        if not sink.is_ours():
            return None
        for answer in micro_batch.answers:
            found.add(answer, next(waiting))
        done += len(micro_batch.answers)
        latency_ms.append(round(1000 * micro_batch.seconds / len(micro_batch.answers), 3))
        emit_sometimes(TOPIC, done, total)
    rows = found.rows
    observed = observe(reference, rows) if reference is not None and rows else None
    if observed is not None and not infer.features:
        rows = [replace(row, features=None) for row in rows]
    result = ShardResult(
        part=shard.part,
        start=shard.start,
        stop=shard.stop,
        labelled=len(rows),
        rejected=found.rejected,
        other=found.other,
        histogram=dict(Counter(row.class_names[0] for row in rows)),
        started=round(began, 3),
        seconds=round(time.perf_counter() - started, 3),
        latency_ms=latency_ms,
    )
    kept = Kept(job.columns, tuple(found.kept)) if job.columns else NOTHING_KEPT
    try:
        return sink.save(shard, rows, kept, result, observed)
    except OSError as cause:
        raise output_lost(job.output, cause) from cause
