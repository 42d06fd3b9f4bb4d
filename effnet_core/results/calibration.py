"""Probabilities that mean what they say: one temperature, fitted on validation, and how far off they are.

Dividing all logits by one number changes no answer, only how sure the model calls itself.

A temperature from a few images may be worse than none, so it has to help on images that it was not fitted on.

Sources: Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599), sections 2 and 4.2; the
targets are those of Platt, Probabilistic Outputs for Support Vector Machines (1999), section 2.2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.results.checked import check_fields

BINS = 15
"""Of the reliability diagram, from 0 to 1 in equal steps."""
FEWEST_IMAGES = 50
"""On fewer no temperature is fitted: a few images say too little."""
TEMPERATURES = (0.05, 20.0)
"""The range in which it is looked for."""
FOLDS = 5
"""A temperature is kept where it helps on images that it was not fitted on: each fold in turn."""
MOST_CHECKED = 5_000
"""Images that are looked at for that."""


@dataclass(frozen=True)
class Reliability:
    """How often answers of each certainty are right."""

    images: list[int] = field(default_factory=lambda: [0] * BINS)
    """By the probability of the best class."""
    right: list[int] = field(default_factory=lambda: [0] * BINS)
    certainty: list[float] = field(default_factory=lambda: [0.0] * BINS)
    """Sum of the probabilities of the best class."""

    @property
    def ece(self) -> float:
        """Expected calibration error: how far certainty and accuracy are apart, 0-1, over all images."""
        total = sum(self.images)
        gaps = (abs(r - c) for r, c in zip(self.right, self.certainty, strict=True))
        return sum(gaps) / total if total else 0.0

    @property
    def mean_certainty(self) -> float:
        """Mean probability of the best class, 0-1."""
        total = sum(self.images)
        return sum(self.certainty) / total if total else 0.0

    def points(self) -> list[tuple[float, float, int]]:
        """Mean certainty, share that is right and images, of every bin that holds some."""
        rows = zip(self.certainty, self.right, self.images, strict=True)
        return [(c / n, r / n, n) for c, r, n in rows if n]

    @classmethod
    def of(cls, certainty: NDArray[Any], right: NDArray[np.bool_]) -> Reliability:
        """Of the probabilities of the best class (N,), and whether it was right (N,)."""
        return cls.of_sums(bin_sums(certainty, right))

    @classmethod
    def of_sums(cls, sums: NDArray[np.float64]) -> Reliability:
        """Of what ``bin_sums`` found, or the sum of several."""
        images, right, certainty = sums
        return cls(
            [round(n) for n in images], [round(n) for n in right], [float(c) for c in certainty]
        )


def bin_sums(certainty: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Images, right ones and summed certainty of each bin, (3, BINS)."""
    place = np.clip((certainty * BINS).astype(np.int64), 0, BINS - 1)
    sums = np.zeros((3, BINS))
    for row, values in enumerate((np.ones(len(certainty)), right, certainty)):
        np.add.at(sums[row], place, values)
    return sums


@dataclass(frozen=True)
class Calibration:
    """Probabilities before and after the temperature, on the same images."""

    temperature: float
    images: int
    before: Reliability
    after: Reliability
    loss_before: float
    """Mean cross-entropy."""
    loss_after: float
    refused: float | None = None
    """A temperature that was fitted and not kept, because it did not help on held-out folds."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, errors included for readers."""
        values = asdict(self)
        for name, found in (("before", self.before), ("after", self.after)):
            values[name]["ece"] = found.ece
        return values

    @classmethod
    def from_dict(cls, values: Any) -> Calibration:
        """The calibration that ``to_dict`` described.

        Raises:
            ValueError: it is not one.
        """
        if not isinstance(values, dict):
            raise ValueError("calibration is not an object with names and values")
        parts = {}
        for name in ("before", "after"):
            given = values.get(name)
            given = {k: v for k, v in given.items() if k != "ece"} if given else given
            parts[name] = check_fields(Reliability, given)
        return check_fields(cls, {**values, **parts})


def calibrate(
    logits: NDArray[np.float32], labels: NDArray[np.int32], temperature: float
) -> Calibration:
    """What a temperature does to some logits (N, classes) of images with labels (N,)."""
    found = [_probabilities(logits, labels, t) for t in (1.0, temperature)]
    right = logits.argmax(axis=1) == labels
    (before, loss_before), (after, loss_after) = found
    return Calibration(
        temperature,
        len(labels),
        Reliability.of(before, right),
        Reliability.of(after, right),
        loss_before,
        loss_after,
    )


def fit_calibration(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> Calibration:
    """The temperature that fits logits (N, classes) to labels (N,), if it helps where it was not fitted.

    A few images can draw the temperature away from where it should be. So it is kept only if temperatures
    fitted on four fifths of the images lower both calibration error and cross-entropy of the last fifth,
    over all five of them; else the probabilities stay as the network gives them.
    """
    fitted = fit_temperature(logits, labels)
    if fitted == 1.0 or _helps(logits, labels):
        return calibrate(logits, labels, fitted)
    return replace(calibrate(logits, labels, 1.0), refused=fitted)


def _helps(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> bool:
    """Whether temperatures of the other folds make each fold's probabilities better."""
    order = np.random.default_rng(0).permutation(len(labels))[:MOST_CHECKED]
    sums, losses = np.zeros((2, 3, BINS)), np.zeros(2)
    for fold in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, fold, assume_unique=True)
        temperatures = (1.0, fit_temperature(logits[rest], labels[rest], fewest=0))
        right = logits[fold].argmax(axis=1) == labels[fold]
        for way, temperature in enumerate(temperatures):
            certainty, loss = _probabilities(logits[fold], labels[fold], temperature)
            sums[way] += bin_sums(certainty, right)
            losses[way] += loss * len(fold)
    before, after = (Reliability.of_sums(part).ece for part in sums)
    return bool(after < before and losses[1] < losses[0])


def fit_temperature(
    logits: NDArray[np.float32], labels: NDArray[np.int32], *, fewest: int = FEWEST_IMAGES
) -> float:
    """The number that logits must be divided by for their probabilities to fit the labels best.

    Of every image a small share of the target, 1 / (N + 2), goes to the other classes, so that a split
    without a mistake does not make the model call itself infallible.

    Args:
        logits: (N, classes).
        labels: (N,).
        fewest: images that are enough.

    Returns:
        1.0 for fewer images.
    """
    images, classes = logits.shape
    if images < max(1, fewest) or classes < 2:
        return 1.0
    from scipy.optimize import minimize_scalar  # half a second

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    doubt = 1 / (images + 2)
    of_label = shifted[np.arange(images), labels]
    others = (shifted.sum(axis=1) - of_label) / (classes - 1)
    target = float(((1 - doubt) * of_label + doubt * others).mean())

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.log(np.exp(inverse * shifted).sum(axis=1)).mean() - inverse * target)

    found = minimize_scalar(
        loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-4}
    )
    return round(float(np.exp(found.x)), 4)


def _probabilities(
    logits: NDArray[np.float32], labels: NDArray[np.int32], temperature: float
) -> tuple[NDArray[np.float64], float]:
    """Probability of each row's best class (N,), and the mean cross-entropy."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(scaled).sum(axis=1))
    loss = log_sum - scaled[np.arange(len(labels)), labels]
    return np.exp(-log_sum), float(loss.mean()) if len(loss) else 0.0
