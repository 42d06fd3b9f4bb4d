"""Two models on the same images, compared pair by pair.

Only images on which one is right and the other wrong tell them apart, so a comparison of pairs sees
differences that two accuracies with their separate errors would hide.

Sources: McNemar (Psychometrika 12, 1947), its exact form being the sign test of the discordant pairs; the
interval is Agresti and Min's (Statistics in Medicine 24, 2005), Wald's with half a pair added to each cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effnet_core.results.answers import Answers, require_same_images
from effnet_core.results.checked import check_fields

PromoteIf = Literal["better", "not_worse", "significantly_better"]
CONFIDENCE_Z = 1.959964
"""Of a 95 % interval."""
SIGNIFICANT = 0.05
ROUNDING = 1e-9
MOST_CLASSES = 10
"""Classes kept of each kind: those that lost most, and those that gained most."""


@dataclass(frozen=True)
class ClassChange:
    """How one class fares with both models."""

    name: str
    images: int
    champion: int
    """Images that the champion gets right."""
    challenger: int

    @property
    def difference(self) -> float:
        """Recall of the challenger less that of the champion, -1 to 1."""
        return (self.challenger - self.champion) / self.images


@dataclass(frozen=True)
class Paired:
    """A champion and a challenger on the same images."""

    images: int
    both: int
    """Images that both get right."""
    lost: int
    """Images that only the champion gets right."""
    won: int
    """Images that only the challenger gets right."""
    p_value: float
    """McNemar's exact test, two-sided: how often models that are equally good differ at least as much."""
    low: float
    """Lower end of the 95 % interval of the difference in top-1."""
    high: float
    champion: str = ""
    """The version, where it has one."""
    classes: list[ClassChange] = field(default_factory=list)
    """Classes that lost most, then those that gained most."""

    @property
    def champion_top1(self) -> float:
        """Share of images that the champion gets right, 0-1."""
        return (self.both + self.lost) / self.images

    @property
    def challenger_top1(self) -> float:
        """Share of images that the challenger gets right, 0-1."""
        return (self.both + self.won) / self.images

    @property
    def difference(self) -> float:
        """Top-1 of the challenger less that of the champion, -1 to 1."""
        return (self.won - self.lost) / self.images

    def surely_above(self, margin: float) -> bool:
        """Whether the challenger is above by more than ``margin``, and chance is no explanation."""
        return self.p_value < SIGNIFICANT and self.low > margin

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, ratios included for readers."""
        values = {**vars(self), "classes": [vars(row) for row in self.classes]}
        ratios = ("champion_top1", "challenger_top1", "difference")
        return {**{name: getattr(self, name) for name in ratios}, **values}

    @classmethod
    def from_dict(cls, values: Any) -> Paired:
        """The comparison that ``to_dict`` described.

        Raises:
            ValueError: it is not one.
        """
        if not isinstance(values, dict):
            raise ValueError("comparison is not an object with names and values")
        ratios = ("champion_top1", "challenger_top1", "difference")
        given = {key: value for key, value in values.items() if key not in ratios}
        classes = [check_fields(ClassChange, row) for row in given.pop("classes", [])]
        return check_fields(cls, {**given, "classes": classes})

    def in_words(self) -> str:
        """The comparison as a part of a sentence."""
        return (
            f"{self.difference:+.2%} (95 % interval {self.low:+.2%} to {self.high:+.2%}), "
            f"{self.won} images won and {self.lost} lost of {self.images}, "
            f"McNemar's exact p = {self.p_value:.3g}"
        )


def compare_counts(both: int, lost: int, won: int, neither: int) -> Paired:
    """The comparison of models of which it is only known how many images fall into each cell."""
    images = both + lost + won + neither
    low, high = interval(lost, won, images)
    return Paired(images, both, lost, won, mcnemar(lost, won), low, high)


def compare_answers(
    champion: Answers,
    challenger: Answers,
    *,
    class_names: tuple[str, ...],
    true: NDArray[np.int32],
    version: str = "",
) -> Paired:
    """Compare two models' answers to the same images.

    Args:
        champion: of the model in production.
        challenger: of the model that is to replace it.
        class_names: of the data set.
        true: the data set's class of each image, (N,).
        version: what the champion is called.

    Raises:
        DataError: they were not asked the same.
    """
    require_same_images(champion, challenger)
    old, new = champion.right, challenger.right
    found = compare_counts(
        int((old & new).sum()),
        int((old & ~new).sum()),
        int((~old & new).sum()),
        int((~old & ~new).sum()),
    )
    classes = _class_changes(old, new, true, class_names)
    return Paired(**{**vars(found), "champion": version, "classes": classes})


def _class_changes(
    old: NDArray[np.bool_],
    new: NDArray[np.bool_],
    true: NDArray[np.int32],
    names: tuple[str, ...],
) -> list[ClassChange]:
    """The classes that changed most."""
    counts = [np.bincount(true[chosen], minlength=len(names)) for chosen in (old, new)]
    images = np.bincount(true, minlength=len(names))
    changed = np.flatnonzero(counts[0] != counts[1])
    rows = [
        ClassChange(names[i], int(images[i]), int(counts[0][i]), int(counts[1][i])) for i in changed
    ]
    rows.sort(key=lambda row: row.difference)
    worse = [row for row in rows if row.difference < 0][:MOST_CLASSES]
    better = [row for row in reversed(rows) if row.difference > 0][:MOST_CLASSES]
    return [*worse, *better]


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact test, two-sided; 1.0 where no image tells the models apart."""
    from scipy.stats import binom

    return min(1.0, 2 * float(binom.cdf(min(lost, won), lost + won, 0.5)))


def interval(lost: int, won: int, images: int) -> tuple[float, float]:
    """The 95 % interval of the difference in top-1, won less lost."""
    a, b, total = lost + 0.5, won + 0.5, images + 2
    middle = (b - a) / total
    half = CONFIDENCE_Z * math.sqrt(max(0.0, (a + b) - (b - a) ** 2 / total)) / total
    return max(-1.0, middle - half), min(1.0, middle + half)


def refusal(
    difference: float, *, promote_if: PromoteIf, margin: float, found: Paired | None = None
) -> str:
    """Why a challenger does not replace the champion, as a part of a sentence; empty where it does.

    Args:
        difference: top-1 of the challenger less that of the champion.
        promote_if: ``not_worse``: at most ``margin`` below. ``better``: more than ``margin`` above.
            ``significantly_better``: besides, the whole 95 % interval is above ``margin`` and McNemar's
            test says p < 0.05.
        margin: difference in top-1, 0-1.
        found: the comparison of pairs, without which nothing is significant.
    """
    limit = f"evaluate.promote_margin={margin:g}"
    if promote_if == "not_worse":
        if difference < -margin - ROUNDING:
            return f"is more than {limit} below"
    elif difference <= margin + ROUNDING:
        return f"is not more than {limit} above"
    elif promote_if == "significantly_better" and not (found and found.surely_above(margin)):
        return f"is not significantly more than {limit} above"
    return ""
