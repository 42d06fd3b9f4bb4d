"""The output folder of a batch inference: part files that are whole, each image exactly once.

OUTPUT/
  run.json, inputs.jsonl  what is to be done (inference_plan.py)
  predictions/part-*    one file a shard, named by its position and by digests
  shards/*.json         what each finished shard counted
  errors.jsonl          path and reason of files without an answer
  summary.json          totals
  report.html           the same to look at, with pictures (predictions_report.py)
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from effnet_core.config.schema import InferConfig
from effnet_core.data.images import WHITE, Colour
from effnet_core.errors import DataError
from effnet_core.infer.plan import OTHER_NAME, PARTS_NAME, InferencePlan
from effnet_core.jobs.job import Shard
from effnet_core.results import ShardCounts, ShardResult
from effnet_core.system.files import atomic_path, read_jsonl, write_json, write_text

ERRORS_NAME = "errors.jsonl"
SUMMARY_NAME = "summary.json"

QUANTILES = (0.5, 0.9, 0.99)
MOST_REASONS = 1000
"""Different reasons that are counted each by itself; what comes later is "other reasons"."""
OTHER_REASONS = "other reasons"
MOST_VALUES = 100_000
"""Latencies that quantiles are taken of; of more, a sample."""


def background_of(summary: Mapping[str, Any]) -> Colour | None:
    """What the model of a finished run saw transparent pictures on."""
    value = summary.get("background", WHITE)
    return None if value is None else (value[0], value[1], value[2])


def finish(
    done: InferencePlan, *, infer: InferConfig, model_sha256: str, background: Colour | None = WHITE
) -> dict[str, Any]:
    """Write ``errors.jsonl`` and ``summary.json`` once every shard is there.

    Returns:
        The summary.

    Raises:
        DataError: a shard is missing, or too many files could not be read.
    """
    missing = done.missing()
    if missing:
        raise DataError(
            f"{len(missing)} of {len(done.shards)} shards are missing; run the same again"
        )
    labelled, models = 0, Counter[str]()
    histogram, reasons = Counter[str](), Reasons()
    spans, latencies = [], Sample()
    other = [*read_jsonl(done.output / OTHER_NAME)]
    known = {row["path"] for row in other}
    for shard, result in _write_errors(done):
        labelled += result.labelled
        other += [row for row in result.other if row["path"] not in known]
        models[shard.model_sha256] += result.labelled
        histogram.update(result.histogram)
        for row in result.rejected:
            reasons.add(row["reason"])
        spans.append((result.started, result.started + result.seconds))
        latencies.add(result.latency_ms)
    seconds, errors = covered(spans), reasons.total
    images = labelled + errors
    write_text(done.output / OTHER_NAME, "".join(f"{json.dumps(row)}\n" for row in other))
    summary = {
        "images": images,
        "labelled": labelled,
        "rejected": errors,
        "rejected_by_reason": dict(reasons.most_common()),
        "other_files": len(other),
        "classes": dict(histogram.most_common()),
        "parts": [PARTS_NAME]
        if done.partition_by
        else [f"{PARTS_NAME}/{shard.part}" for shard in done.shards],
        "seconds": round(seconds, 3),
        "images_per_s": round(images / seconds, 2) if seconds else 0.0,
        "latency_ms": quantiles(latencies.values),
        "model_sha256": model_sha256,
        "background": background and list(background),
    }
    if len(models) > 1:
        summary["labelled_by_model"] = dict(models)
    if done.partition_by:
        summary["partition_by"] = done.partition_by
    write_json(done.output / SUMMARY_NAME, summary)
    if errors > allowed_errors(images, infer):
        raise too_many_errors(errors, images, infer, done)
    return summary


def count_errors(done: InferencePlan) -> int:
    """How many files the finished shards have without an answer."""
    return sum(len(result.rejected) for _, result in _finished(done))


def write_errors(done: InferencePlan) -> None:
    """Write ``errors.jsonl`` from the shards that are finished: once a run, when it ends."""
    for _ in _write_errors(done):
        pass


def _write_errors(done: InferencePlan) -> Iterator[tuple[Shard, ShardResult]]:
    """Write ``errors.jsonl`` while the finished shards are gone through, one by one."""
    with atomic_path(done.output / ERRORS_NAME) as temporary, temporary.open("w") as stream:
        for shard, result in _finished(done):
            for row in result.rejected:
                stream.write(json.dumps(row) + "\n")
            yield shard, result


def _finished(done: InferencePlan) -> Iterator[tuple[Shard, ShardResult]]:
    for shard in done.shards:
        if done.is_done(shard):
            yield shard, ShardResult.read(done.shard_path(shard))


class Tally:
    """How many files have no answer while shards are finished one after the other."""

    def __init__(self, plan: InferencePlan, infer: InferConfig, *, errors: int) -> None:
        self.plan, self.infer, self.errors = plan, infer, errors
        self.shards_left = len(plan.missing())

    @classmethod
    def of(cls, plan: InferencePlan, infer: InferConfig) -> Tally:
        """What earlier runs have left; looks through their shards once."""
        return cls(plan, infer, errors=count_errors(plan))

    @property
    def left(self) -> int:
        """How many more files may be without an answer; negative where it is too late."""
        return allowed_errors(self.plan.images, self.infer) - self.errors

    def add(self, *finished: ShardCounts) -> None:
        """Count finished shards.

        Raises:
            DataError: as ``check``.
        """
        self.errors += sum(shard.rejected for shard in finished)
        self.shards_left -= len(finished)
        self.check()

    def check(self) -> None:
        """Refuse to label more where that cannot help any more.

        Raises:
            DataError: too many files could not be read, and shards are still missing; ``errors.jsonl``
                names the files.
        """
        if self.left < 0 and self.shards_left:
            write_errors(self.plan)
            raise too_many_errors(self.errors, self.plan.images, self.infer, self.plan)


class Reasons:
    """How often each reason came; what it holds does not grow with the files."""

    def __init__(self) -> None:
        self.total = 0
        self._counts = Counter[str]()

    def add(self, reason: str) -> None:
        """Count one file."""
        self.total += 1
        known = reason in self._counts or len(self._counts) < MOST_REASONS
        self._counts[reason if known else OTHER_REASONS] += 1

    def most_common(self, count: int | None = None) -> list[tuple[str, int]]:
        """Reasons and how often they came, most frequent first."""
        return self._counts.most_common(count)


class Sample:
    """Some of many values: all of few, and of more a random choice that is the same in each run."""

    def __init__(self, most: int = MOST_VALUES) -> None:
        self.most = most
        self.values: list[float] = []
        self._seen = 0
        self._random = random.Random(0)  # noqa: S311

    def add(self, values: Sequence[float]) -> None:
        """Look at some more values; each has the same chance to be among those that stay."""
        for value in values:
            self._seen += 1
            if len(self.values) < self.most:
                self.values.append(value)
            elif (place := self._random.randrange(self._seen)) < self.most:
                self.values[place] = value


def allowed_errors(images: int, infer: InferConfig) -> int:
    """How many files may be without an answer."""
    return math.floor(images * infer.max_error_share + 1e-9)


def too_many_errors(errors: int, images: int, infer: InferConfig, plan: InferencePlan) -> DataError:
    """What to say when it is more."""
    return DataError(
        f"{errors} of {images} files ({errors / images:.1%}) could not be labelled, more than "
        f"infer.max_error_share={infer.max_error_share:g} allows; see {plan.shown(ERRORS_NAME)}"
    )


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in which at least one of some spans of time ran."""
    total, reached = 0.0, -math.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """``{"p50": ...}``; empty without values."""
    if not values:
        return {}
    found = np.quantile(np.array(values), QUANTILES)
    return {
        f"p{share * 100:g}": round(float(v), 3) for share, v in zip(QUANTILES, found, strict=True)
    }
