"""A classifier on features that are computed once: multinomial logistic regression, in plain numpy.

Source: the first half of Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution" (arXiv 2202.10054): fit the head first, then fine-tune from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from effnet_core.events import Threads
from effnet_core.system.machine import available_cores

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Labels = NDArray[np.int32]

PENALTIES = (3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""What is tried as the weight of the squared norm, beside the mean loss of features of deviation 1; from the
strongest, whose solution the next one starts from."""
FOLDS = 5
MOST_FOR_CHOICE = 5_000
"""Images on which the penalty is chosen; more of them would not choose another."""
CHANNELS_FOR_CHOICE = 256
"""Principal components on which it is chosen: a fifth of the work."""
MOST_ITERATIONS = 300
PRECISE, ROUGH = 1e-7, 1e-5
"""Relative fall of the loss below which a fit ends; the rough one is for choosing."""
WORSE_IN_A_ROW = 2
"""Penalties without a lower loss after which no weaker one is tried."""


@dataclass(frozen=True)
class Head:
    """A linear classifier."""

    weight: Floats
    """(classes, channels)."""
    bias: Floats
    """(classes,)."""
    penalty: float
    """Weight of the squared norm that it was fitted with."""

    def logits(self, features: Floats) -> Floats:
        """(N, classes) of ``features`` (N, channels)."""
        return np.asarray(features @ self.weight.T + self.bias, np.float32)


@dataclass(frozen=True)
class _Scale:
    """Mean and one common deviation of features: what penalties are given for."""

    mean: Doubles
    """(channels,)."""
    deviation: float

    @classmethod
    def of(cls, features: Floats) -> _Scale:
        mean = features.mean(axis=0, dtype=np.float64)
        deviation = float(np.sqrt(features.var(axis=0, dtype=np.float64).mean()))
        return cls(mean, deviation or 1.0)

    def apply(self, features: Floats) -> Floats:
        return np.asarray((features - self.mean) / self.deviation, np.float32)


def fit_head(
    features: Floats,
    labels: Labels,
    classes: int,
    *,
    penalty: float | None = None,
    class_weights: NDArray[np.float64] | None = None,
) -> Head:
    """The head with the smallest penalised loss on all images.

    Args:
        features: (N, channels).
        labels: (N,), from 0 to ``classes`` - 1.
        classes: outputs of the head; a class without an image has one too.
        penalty: weight of the squared norm; chosen by cross-validation when absent.
        class_weights: of each class in the loss; one each when absent.
    """
    scale = _Scale.of(features)
    scaled = scale.apply(features)
    weights = _of_images(labels, class_weights)
    if penalty is None:
        penalty = choose_penalty(scaled, labels, classes, weights)
    solution = _minimise(scaled, labels, weights, classes, penalty, None, end=PRECISE)
    weight, bias = solution[:-1].T / scale.deviation, solution[-1]
    bias = bias - weight @ scale.mean
    return Head(weight.astype(np.float32), bias.astype(np.float32), penalty)


def choose_penalty(features: Floats, labels: Labels, classes: int, weights: Doubles) -> float:
    """The penalty with the smallest loss on images that the head was not fitted to.

    Every image is held out once, together with others of each class; the only image of a class never is.

    Args:
        features: (N, channels), of mean 0 and deviation 1 all together.
        labels: (N,).
        classes: outputs of the head.
        weights: (N,) of the images in the loss.
    """
    chosen = _sample(labels, MOST_FOR_CHOICE)
    features, labels, weights = _principal(features[chosen]), labels[chosen], weights[chosen]
    folds = fold_of_each(labels, FOLDS)
    used = [fold for fold in range(FOLDS) if (folds == fold).any() and (folds != fold).any()]
    if not used:
        return PENALTIES[len(PENALTIES) // 2]
    starts: dict[int, Doubles | None] = dict.fromkeys(used)

    def loss_without(fold: int) -> float:
        out = folds == fold
        starts[fold] = solution = _minimise(
            features[~out], labels[~out], weights[~out], classes, penalty, starts[fold], end=ROUGH
        )
        return _loss_of(solution, features[out], labels[out], weights[out])

    best, best_loss, missed = PENALTIES[0], np.inf, 0
    with Threads(min(len(used), len(available_cores()))) as pool:
        for penalty in PENALTIES:
            loss = sum(pool.map(loss_without, used))
            missed += 1
            if loss < best_loss:
                best, best_loss, missed = penalty, loss, 0
            if missed == WORSE_IN_A_ROW:
                break
    return best


def _principal(features: Floats) -> Floats:
    """The first principal components of centred features, (N, at most CHANNELS_FOR_CHOICE)."""
    if features.shape[1] <= CHANNELS_FOR_CHOICE:
        return features
    _, vectors = np.linalg.eigh((features.T @ features).astype(np.float64))
    return np.asarray(features @ vectors[:, -CHANNELS_FOR_CHOICE:], np.float32)


def fold_of_each(labels: Labels, folds: int) -> NDArray[np.int64]:
    """The fold in which each image is held out, (N,): as many of each class in every one as there can be.

    -1 for the only image of its class, which is held out in none.
    """
    rng = np.random.default_rng(0)
    result = np.full(len(labels), -1, np.int64)
    next_fold = 0
    for label in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == label))
        if len(images) > 1:
            result[images] = (next_fold + np.arange(len(images))) % folds
            next_fold += len(images)
    return result


def _sample(labels: Labels, most: int) -> NDArray[np.int64]:
    """Positions of at most so many images, every class with its share and at least two where it has them."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        images = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(images[: max(2, len(images) * most // len(labels))])
    return np.sort(np.concatenate(chosen))


def _of_images(labels: Labels, class_weights: NDArray[np.float64] | None) -> Doubles:
    """Weight of each image in the loss, (N,), their mean 1."""
    if class_weights is None:
        return np.ones(len(labels))
    weights = class_weights[labels]
    return np.asarray(weights / weights.mean())


def _log_probs(solution: Doubles, features: Floats) -> Floats:
    logits = features @ solution[:-1].astype(np.float32) + solution[-1].astype(np.float32)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return np.asarray(logits, np.float32)


def _loss_of(solution: Doubles, features: Floats, labels: Labels, weights: Doubles) -> float:
    """Weighted sum of the cross-entropy over images."""
    of_label = _log_probs(solution, features)[np.arange(len(labels)), labels]
    return -float((weights * of_label).sum())


def _minimise(
    features: Floats,
    labels: Labels,
    weights: Doubles,
    classes: int,
    penalty: float,
    start: Doubles | None,
    *,
    end: float,
) -> Doubles:
    """Weights and, as the last row, biases, (channels + 1, classes), of the smallest penalised loss."""
    count, channels = features.shape
    shape = (channels + 1, classes)
    rows = np.arange(count)
    shares = (weights / count).astype(np.float32)

    def value_and_gradient(flat: Doubles) -> tuple[float, Doubles]:
        solution = flat.reshape(shape)
        log_probs = _log_probs(solution, features)
        loss = -float((shares * log_probs[rows, labels]).sum(dtype=np.float64))
        errors = np.exp(log_probs)
        errors[rows, labels] -= 1.0
        errors *= shares[:, None]
        gradient = np.empty(shape)
        gradient[:-1] = features.T @ errors + penalty * solution[:-1]
        gradient[-1] = errors.sum(axis=0)
        norm = float((solution[:-1] ** 2).sum())
        return loss + 0.5 * penalty * norm, gradient.reshape(-1)

    first = np.zeros(shape) if start is None else start
    found = minimize(
        value_and_gradient,
        first.reshape(-1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MOST_ITERATIONS, "maxcor": 10, "ftol": end, "gtol": 1e-6},
    )
    return np.asarray(found.x, np.float64).reshape(shape)
