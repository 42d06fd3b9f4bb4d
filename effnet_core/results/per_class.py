"""Precision, recall and F1 of each class, and their averages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effnet_core.results.confusion import Confusion

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Averages:
    """One number for all classes."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class PerClass:
    """Figures by class, (classes,) each; NaN where there is nothing to divide by."""

    images: NDArray[np.int64]
    """True images of the class."""
    precision: FloatArray
    """Right ones of those that were given the class."""
    recall: FloatArray
    """Right ones of its images."""
    f1: FloatArray
    """Their harmonic mean."""

    @classmethod
    def of(cls, confusion: Confusion) -> PerClass:
        """Of a confusion matrix."""
        images, answers, right = confusion.by_true(), confusion.by_answer(), confusion.right()
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(answers > 0, right / answers, np.nan)
            recall = np.where(images > 0, right / images, np.nan)
            f1 = np.where(images + answers > 0, 2 * right / (images + answers), np.nan)
        return cls(images, precision, recall, f1)

    def macro(self) -> Averages:
        """Every class with images counts the same; a class that was never answered has precision 0."""
        return self._mean(self.images > 0)

    def weighted(self) -> Averages:
        """Every class counts as much as it has images."""
        return self._mean(self.images)

    def _mean(self, weights: NDArray[np.int64] | NDArray[np.bool_]) -> Averages:
        total = max(1, int(weights.sum()))
        columns = (np.nan_to_num(column) for column in (self.precision, self.recall, self.f1))
        return Averages(*(float((column * weights).sum() / total) for column in columns))

    def worst(self, most: int) -> list[int]:
        """Classes with images whose F1 is lowest, worst first; of equals the larger."""
        present = np.flatnonzero(self.images > 0)
        order = np.lexsort((-self.images[present], self.f1[present]))
        return [int(i) for i in present[order][:most]]
