"""What was found when engines were compared: how fast they are, and whether their answers are the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 0.95

FINE, SLOWER, DIFFERENT, UNDECIDED, IMPOSSIBLE = (
    *("agrees", "slower", "different", "undecided", "impossible"),
)
"""How a trial ends for an engine."""


@dataclass
class Tried:
    """What was found of one engine."""

    engine: str
    precision: str
    verdict: str = ""
    pictures: int = 0
    """That it was compared over."""
    differing: int = 0
    """Pictures with another answer than the first engine's."""
    other_class: int = 0
    """Among them, with another best class."""
    largest: float = 0.0
    """Largest difference of a probability."""
    images_per_s: float = 0.0
    """Without decoding."""
    times: float = 0.0
    """Speed, over the same pictures the first engine's is 1."""
    reason: str = ""
    """Why it cannot be used."""

    @property
    def name(self) -> str:
        """Engine and precision."""
        return f"{self.engine} {self.precision}"

    def in_words(self) -> str:
        """Why it was turned down."""
        if self.verdict == IMPOSSIBLE:
            return f"{self.name} ({self.reason})"
        speed = f"{self.name} ({self.images_per_s:,.0f} images/s"
        if self.verdict == DIFFERENT:
            return (
                f"{speed}, but {self.differing:,} of {self.pictures:,} pictures have other answers, "
                f"{self.other_class:,} another best class)"
            )
        if self.verdict == UNDECIDED:
            return (
                f"{speed}, but {self.differing:,} of {self.pictures:,} pictures with other answers are "
                "too many, or the pictures too few, to be sure)"
            )
        return f"{speed}, {self.times:.2f} times as fast)"

    def as_taken(self, within: float) -> str:
        """Why it was taken."""
        text = f"{self.name}, {self.images_per_s:,.0f} images/s without decoding"
        if self.times == 1.0:
            return text
        same = self.pictures - self.differing
        return (
            f"{text}, {self.times:.2f} times as fast as the first; the same answers as fp32 on {same:,} of "
            f"{self.pictures:,} pictures (best class, and probabilities within {within:g}; largest "
            f"difference {self.largest:.1g})"
        )


def pictures_needed(share: float) -> int:
    """Pictures without any difference that show, with 95 % confidence, a share of at most so much."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - share))
