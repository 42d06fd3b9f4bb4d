"""Which class was answered for which: a confusion matrix that holds only what happened.

A matrix of 21,000 classes has 441 million cells, of which an evaluation fills at most one an image, so
pairs of classes are counted and not cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

MOST_WAITING = 1 << 20
"""Images whose pairs are counted together."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many images of each class got which answer; pairs that no image had are not in it."""

    classes: int
    true: IntArray
    """(pairs,); sorted, and by ``answer`` where equal."""
    answer: IntArray
    """(pairs,)."""
    images: IntArray
    """(pairs,); each at least 1."""

    @classmethod
    def empty(cls, classes: int = 0) -> Confusion:
        """The matrix of no image."""
        none = np.zeros(0, np.int64)
        return cls(classes, none, none, none)

    @classmethod
    def of_codes(cls, codes: IntArray, images: IntArray, classes: int) -> Confusion:
        """The matrix of pairs ``true * classes + answer``, which may come more than once."""
        found, place = np.unique(codes, return_inverse=True)
        counts = np.zeros(len(found), np.int64)
        np.add.at(counts, place, images)
        return cls(classes, found // max(1, classes), found % max(1, classes), counts)

    @classmethod
    def from_dense(cls, rows: Sequence[Sequence[int]]) -> Confusion:
        """The matrix whose rows are true classes and whose columns are answers."""
        counts = np.asarray(rows, np.int64).reshape(len(rows), len(rows))
        true, answer = np.nonzero(counts)
        return cls(len(rows), true.astype(np.int64), answer.astype(np.int64), counts[true, answer])

    @property
    def codes(self) -> IntArray:
        """``true * classes + answer`` of each pair."""
        return self.true * self.classes + self.answer

    @property
    def seen(self) -> int:
        """Images in all."""
        return int(self.images.sum())

    @property
    def correct(self) -> int:
        """Images that got their own class."""
        return int(self.images[self.true == self.answer].sum())

    def by_true(self) -> IntArray:
        """Images of each class, (classes,)."""
        return self._sums(self.true, self.images)

    def by_answer(self) -> IntArray:
        """Images that got each class for an answer, (classes,)."""
        return self._sums(self.answer, self.images)

    def right(self) -> IntArray:
        """Images of each class that got it for an answer, (classes,)."""
        hit = self.true == self.answer
        return self._sums(self.true[hit], self.images[hit])

    def mistakes(self) -> list[tuple[int, int, int]]:
        """True class, answer and images of each confused pair, most frequent first."""
        wrong = np.flatnonzero(self.true != self.answer)
        order = wrong[np.argsort(-self.images[wrong], kind="stable")]
        columns = (self.true[order], self.answer[order], self.images[order])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def of_classes(self, kept: IntArray) -> Confusion:
        """The matrix of some classes alone, numbered by their order; other pairs are left out."""
        cells = self.dense(kept.tolist())
        true, answer = np.nonzero(cells)
        columns = true.astype(np.int64), answer.astype(np.int64)
        return Confusion(len(kept), *columns, cells[true, answer])

    def dense(self, kept: Sequence[int] | None = None) -> IntArray:
        """The cells of some classes in their order, of all by default, (kept, kept)."""
        chosen = np.arange(self.classes) if kept is None else np.asarray(kept, np.int64)
        place = np.full(self.classes, -1, np.int64)
        place[chosen] = np.arange(len(chosen))
        inside = (place[self.true] >= 0) & (place[self.answer] >= 0)
        cells = np.zeros((len(chosen), len(chosen)), np.int64)
        cells[place[self.true[inside]], place[self.answer[inside]]] = self.images[inside]
        return cells

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "classes": self.classes,
            "true": self.true.tolist(),
            "answer": self.answer.tolist(),
            "images": self.images.tolist(),
        }

    @classmethod
    def from_value(cls, value: Any) -> Confusion:
        """The matrix that ``to_dict`` described, or the rows that runs of earlier versions have.

        Raises:
            ValueError: the value is neither.
        """
        if isinstance(value, list):
            if any(not isinstance(row, list) or len(row) != len(value) for row in value):
                raise ValueError("confusion is not a square of counts")
            found = cls.from_dense([[_count(cell) for cell in row] for row in value])
        else:
            found = cls._from_pairs(value)
        if (found.images < 0).any():
            raise ValueError("confusion has a count below 0")
        return found

    @classmethod
    def _from_pairs(cls, value: Any) -> Confusion:
        if not isinstance(value, dict) or set(value) != {"classes", "true", "answer", "images"}:
            raise ValueError("confusion must have classes, true, answer and images")
        classes = _count(value["classes"])
        lists = [value[key] for key in ("true", "answer", "images")]
        if any(not isinstance(items, list) or len(items) != len(lists[0]) for items in lists):
            raise ValueError("the lists of confusion are not of the same length")
        true, answer, images = (np.array([_count(n) for n in items], np.int64) for items in lists)
        if any(((column < 0) | (column >= classes)).any() for column in (true, answer)):
            raise ValueError(f"confusion names a class that is not one of its {classes}")
        return cls.of_codes(true * classes + answer, images, classes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Confusion):
            return NotImplemented
        same = self.classes == other.classes and np.array_equal(self.codes, other.codes)
        return same and np.array_equal(self.images, other.images)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return len(self.images) > 0

    def _sums(self, classes: IntArray, images: IntArray) -> IntArray:
        sums = np.zeros(self.classes, np.int64)
        np.add.at(sums, classes, images)
        return sums


class ConfusionCounter:
    """Counts pairs as they come; its memory grows with the pairs that happened, not with the images."""

    def __init__(self, classes: int) -> None:
        self.counted = Confusion.empty(classes)
        self.waiting: list[IntArray] = []
        self.images_waiting = 0

    def add(self, true: NDArray[Any], answer: NDArray[Any]) -> None:
        """Count some images: their classes (N,) and answers (N,)."""
        self.waiting.append(true.astype(np.int64) * self.counted.classes + answer.astype(np.int64))
        self.images_waiting += len(true)
        if self.images_waiting >= MOST_WAITING:
            self.total()

    def total(self) -> Confusion:
        """What was counted until now."""
        if self.waiting:
            old = self.counted
            codes = np.concatenate([old.codes, *self.waiting])
            images = np.concatenate([old.images, np.ones(self.images_waiting, np.int64)])
            self.counted = Confusion.of_codes(codes, images, old.classes)
            self.waiting, self.images_waiting = [], 0
        return self.counted


def _count(value: Any) -> int:
    if type(value) is not int or abs(value) >= 1 << 62:
        raise ValueError(f"confusion holds {str(value)[:40]!r}, which is not a count")
    return value
