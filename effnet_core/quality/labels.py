"""Labels that a model contradicts: confident learning on out-of-fold probabilities.

A label is suspicious where a model that has not learned from it is surer of another class than it usually is
of images that really have that class.

Source: Northcutt, Jiang and Chuang, Confident Learning (JAIR 70, 2021; arXiv 1911.00068), sections 3.1 and
3.2: thresholds are the mean self-confidence of each class, errors are the off-diagonal examples of the
confident joint, ranked by normalised margin.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effnet_core.errors import DataError

FOLDS = 5
COMPONENTS = 64
"""Directions of the features that the probe learns from."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Suspicion:
    """What confident learning says of N labels."""

    order: NDArray[np.int64]
    """Images, the most suspicious first."""
    suspected: int
    """So many of the first are in the confident joint: probably wrong. The rest is ranked all the same."""
    suggestion: NDArray[np.int64]
    """(N,): the class that the model finds instead; of images that are not suspected its best one."""
    margin: FloatArray
    """(N,): probability of the label less that of the best other class, -1 to 1."""


def confident_learning(probs: FloatArray, labels: NDArray[np.int64]) -> Suspicion:
    """Rank labels by how strongly they are contradicted.

    Args:
        probs: (N, classes), of a model that did not learn from the image itself.
        labels: (N,).
    """
    images, classes = probs.shape
    rows = np.arange(images)
    own = probs[rows, labels]
    thresholds = np.array(
        [own[labels == k].mean() if (labels == k).any() else np.inf for k in range(classes)]
    )
    sure = np.where(probs >= thresholds, probs, -1.0)
    confident = sure.argmax(axis=1)
    is_confident = sure.max(axis=1) >= 0
    suspected = is_confident & (confident != labels)
    others = probs.copy()
    others[rows, labels] = -1.0
    best_other = others.argmax(axis=1)
    suggestion = np.where(suspected, confident, best_other)
    margin = own - others[rows, best_other]
    order = np.lexsort((margin, ~suspected))
    return Suspicion(order, int(suspected.sum()), suggestion, margin)


def out_of_fold(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, classes: int, seed: int = 0
) -> FloatArray:
    """Probabilities for each image from a probe that has not seen its label, (N, classes).

    The probe is a logistic regression on the features' main directions, fitted to the other folds.

    Raises:
        DataError: there are fewer than two classes, or too few images.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = np.bincount(labels, minlength=classes)
    if (counts > 0).sum() < 2 or len(labels) < 2 * FOLDS:
        raise DataError(
            f"{len(labels)} images of {(counts > 0).sum()} class(es) are too few to find wrong labels; at "
            f"least {2 * FOLDS} images of two classes are needed"
        )
    components = min(COMPONENTS, features.shape[1], len(labels) - -(-len(labels) // FOLDS))
    probs = np.zeros((len(labels), classes))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer images than folds
        for learn, rest in folds.split(features, labels):
            probe = make_pipeline(
                StandardScaler(),
                PCA(components, random_state=seed),
                LogisticRegression(C=0.1, max_iter=300),
            )
            probe.fit(features[learn], labels[learn])
            known = probe.classes_
            probs[np.ix_(rest, known)] = probe.predict_proba(features[rest])
    return probs
