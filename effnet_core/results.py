"""What jobs bring back: small frozen records, written as JSON by rank 0 and read by the parent."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

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
    """Mean cross-entropy, without label smoothing."""
    confusion: list[list[int]] = field(default_factory=list)
    """Counts, rows true class, columns predicted class."""
    class_names: list[str] = field(default_factory=list)
    split: str = ""
    checkpoint_sha256: str = ""
    data_digest: str = ""
    world_size: int = 1
    seconds: float = 0.0

    @property
    def top1(self) -> float:
        """Share of images whose best class is right, 0-1."""
        return self.correct1 / self.seen

    @property
    def top5(self) -> float | None:
        """Share of images whose five best classes hold the right one; None below five classes."""
        return self.correct5 / self.seen if len(self.class_names) >= TOP5_FROM_CLASSES else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, ratios included for readers."""
        return {"top1": self.top1, "top5": self.top5, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EvalResult:
        """The result that ``to_dict`` described."""
        return cls(**{key: value for key, value in values.items() if key not in ("top1", "top5")})


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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "evaluation": self.evaluation.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainResult:
        """The result that ``to_dict`` described."""
        return cls(**{**values, "evaluation": EvalResult.from_dict(values["evaluation"])})


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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ShardResult:
        """The result that ``to_dict`` described."""
        return cls(**values)
