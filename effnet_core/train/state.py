"""Where a training is: losses, the best so far, the clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """Time spent in steps, without compilation, evaluation and saving."""

    steps: int = 0
    seconds: float = 0.0

    def add(self, steps: int, seconds: float) -> None:
        """Count ``steps`` that took ``seconds`` together."""
        self.steps += steps
        self.seconds += seconds


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
