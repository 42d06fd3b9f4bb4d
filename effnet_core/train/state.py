"""Where a training is: what its checkpoints must hold besides the parameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter


@dataclass
class Losses:
    """The losses of an epoch so far."""

    total: float = 0.0
    count: int = 0
    last: float = 0.0

    @property
    def mean(self) -> float:
        """Mean over the epoch so far."""
        return self.total / self.count

    def add(self, values: list[float]) -> None:
        """Count more steps; one after the other, so that the sum does not depend on how they come."""
        for value in values:
            self.total += value
            self.last = value
        self.count += len(values)


@dataclass
class Best:
    """The best evaluation of a run so far."""

    top1: float = -1.0
    step: int = 0
    missed: int = 0
    """Evaluations since then."""


@dataclass
class Progress:
    """Where a run is.

    A resumed run starts from this and from the parameters of its checkpoint; nothing else that changes
    during a run outlives its process. Every field is written and read by ``to_dict`` and ``from_dict``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    step: int = 0
    """Finished updates since scratch."""
    epoch_finished: bool = True
    """Whether the epoch that ended at ``step`` has been evaluated and saved."""
    frozen: bool = False
    """Whether only the classifier learns at present."""
    train_size: int = 0
    """Side of the training input, px."""
    same_since: int = 0
    """The update with which the compiled step took its present form."""
    equal_since: int = 0
    """The update after which all ranks were made equal."""
    spent_s: float = 0.0
    """Seconds since the first step, those of earlier processes included; rank 0 counts them."""
    lr: float = 0.0
    """Learning rate of the last update."""
    losses: Losses = field(default_factory=Losses)
    best: Best = field(default_factory=Best)
    metrics: dict[str, float | None] = field(default_factory=dict)
    """``top1``, ``top5`` and ``loss`` of the last evaluation."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """The progress that ``to_dict`` described; a field that is not there has its default.

        Raises:
            pydantic.ValidationError: a value is of the wrong type, or a name is unknown.
        """
        return _PROGRESS.validate_python(values)


_PROGRESS = TypeAdapter(Progress)
