"""What jobs bring back: small frozen records, written as JSON by rank 0 and read by the parent."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from effnet_core.results.calibration import Calibration
from effnet_core.results.checked import check_fields, whole
from effnet_core.results.confusion import Confusion
from effnet_core.system.files import read_json

TOP5_FROM_CLASSES = 5
"""``top5`` says nothing with fewer classes and is left out."""


@dataclass(frozen=True)
class EvalResult:
    """Accuracy over every image of a split, from summed counts."""

    seen: int
    """Images evaluated; always the size of the split."""
    correct1: int
    """Images whose best class is right."""
    correct5: int
    """Images whose five best classes hold the right one."""
    loss: float
    """Mean cross-entropy, without label smoothing and before calibration."""
    confusion: Confusion = field(default_factory=Confusion.empty)
    class_names: list[str] = field(default_factory=list)
    split: str = ""
    checkpoint_sha256: str = ""
    data_digest: str = ""
    world_size: int = 1
    seconds: float = 0.0
    num_classes: int = 0
    """How many classes there are; 0 means as many as names."""
    calibration: Calibration | None = None
    """How honest the probabilities are, before the checkpoint's temperature and with it."""

    @property
    def top1(self) -> float:
        """Share of images whose best class is right, 0-1."""
        return self.correct1 / self.seen

    @property
    def top5(self) -> float | None:
        """Share of images whose five best classes hold the right one; None below five classes."""
        classes = self.num_classes or len(self.class_names)
        return self.correct5 / self.seen if classes >= TOP5_FROM_CLASSES else None

    def headline(self) -> EvalResult:
        """The same without what grows with the classes: what tasks hand to each other."""
        classes = self.num_classes or len(self.class_names)
        return replace(self, confusion=Confusion.empty(), class_names=[], num_classes=classes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, ratios included for readers."""
        values = {
            **vars(self),
            "confusion": self.confusion.to_dict(),
            "calibration": self.calibration and self.calibration.to_dict(),
        }
        return {"top1": self.top1, "top5": self.top5, **values}

    @classmethod
    def from_dict(cls, values: Any) -> EvalResult:
        """The result that ``to_dict`` described.

        Raises:
            ValueError: it is not one, or its numbers do not fit together.
        """
        if not isinstance(values, dict):
            raise ValueError("it is not an object with names and values")
        given = {key: value for key, value in values.items() if key not in ("top1", "top5")}
        confusion = Confusion.from_value(given.pop("confusion", []))
        calibration = given.pop("calibration", None)
        if calibration is not None:
            calibration = Calibration.from_dict(calibration)
        result = check_fields(cls, {**given, "confusion": confusion, "calibration": calibration})
        result._require_sense()
        return result

    @classmethod
    def read(cls, path: Path) -> EvalResult:
        """The result in a file.

        Raises:
            DataError: there is none, or it is damaged.
        """
        with whole(path, "evaluation"):
            return cls.from_dict(read_json(path))

    def _require_sense(self) -> None:
        """Refuse numbers that no evaluation has."""
        if not 0 <= self.correct1 <= self.seen or not 0 <= self.correct5 <= self.seen:
            raise ValueError(
                f"correct1={self.correct1} and correct5={self.correct5} must be from 0 to seen="
                f"{self.seen}"
            )
        if not math.isfinite(self.loss):
            raise ValueError(f"loss={self.loss} is not a number")
        names, classes = len(self.class_names), self.confusion.classes
        if classes and names and classes != names:
            raise ValueError(f"confusion has {classes} classes, but there are {names} names")
        found = self.confusion.seen, self.confusion.correct
        if self.confusion and found != (self.seen, self.correct1):
            raise ValueError(
                f"confusion counts {found[0]} images, {found[1]} of them right, but seen={self.seen} "
                f"and correct1={self.correct1}"
            )


@dataclass(frozen=True)
class Measured:
    """An evaluation as it travels between tasks: its headline, and the file with all of it."""

    path: str
    """``result.json`` of the evaluation."""
    sha256: str
    """SHA-256 of the file."""
    result: EvalResult
    """The headline."""


@dataclass(frozen=True)
class TrainResult:
    """The end of a training run."""

    checkpoint: str
    """Path of the finished model."""
    sha256: str
    epochs: int
    steps: int
    resumed_from_step: int
    """0 where the run started from scratch."""
    images_per_s: float
    """Over all ranks, measured in this process without compilation and evaluation."""
    evaluation: EvalResult
    world_size: int = 1
    weights_digest: str = ""
    """SHA-256 of all weights and statistics, equal on every rank."""
    seconds: float = 0.0
    probe_top1: float | None = None
    """Of the classifier alone, fitted before training, where there was one."""

    def headline(self) -> TrainResult:
        """The same without what grows with the classes: what tasks hand to each other."""
        return replace(self, evaluation=self.evaluation.headline())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**vars(self), "evaluation": self.evaluation.to_dict()}

    @classmethod
    def from_dict(cls, values: Any) -> TrainResult:
        """The result that ``to_dict`` described.

        Raises:
            ValueError: it is not one.
        """
        if not isinstance(values, dict):
            raise ValueError("it is not an object with names and values")
        evaluation = EvalResult.from_dict(values.get("evaluation"))
        return check_fields(cls, {**values, "evaluation": evaluation})

    @classmethod
    def read(cls, path: Path) -> TrainResult:
        """The result in a file.

        Raises:
            DataError: there is none, or it is damaged.
        """
        with whole(path, "training result"):
            return cls.from_dict(read_json(path))


@dataclass(frozen=True)
class ShardCounts:
    """How a shard of a batch inference ended, without what grows with its images."""

    start: int
    stop: int
    """Positions in the input list."""
    labelled: int
    rejected: int


@dataclass(frozen=True)
class ShardResult:
    """One finished part of a batch inference."""

    part: str
    """Path of the part file."""
    start: int
    stop: int
    """Positions in the input list."""
    labelled: int
    rejected: list[dict[str, str]]
    """Path and reason of files that could not be read."""
    histogram: dict[str, int] = field(default_factory=dict)
    """How often each class came first."""
    started: float = 0.0
    """Seconds since 1970."""
    seconds: float = 0.0
    latency_ms: list[float] = field(default_factory=list)
    """Milliseconds an image in each call of the engine, decoding included."""
    other: list[dict[str, str]] = field(default_factory=list)
    """Path and reason of files that turned out not to be pictures."""
    by: str = ""
    """Which process labelled it, where several machines share an output."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ShardResult:
        """The result that ``to_dict`` described.

        Raises:
            ValueError: it is not one.
        """
        return check_fields(cls, values)

    @classmethod
    def read(cls, path: Path) -> ShardResult:
        """The result in a file.

        Raises:
            DataError: there is none, or it is damaged.
        """
        with whole(path, "count of a shard"):
            return cls.from_dict(read_json(path))

    def counts(self) -> ShardCounts:
        """How it ended, in numbers."""
        return ShardCounts(self.start, self.stop, self.labelled, len(self.rejected))
