"""The classifier on features: the same as scikit-learn's, and sensible where there is little to learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from effnet_core.train.head import PENALTIES, fit_head, fold_of_each


def drawn(images: int, *, classes: int = 3, channels: int = 8, spread: float = 1.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, channels))
    labels = np.arange(images, dtype=np.int32) % classes
    features = centres[labels] + spread * rng.standard_normal((images, channels))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("penalty", [0.3, 0.01])
def test_it_is_scikit_learns_logistic_regression(penalty: float) -> None:
    features, labels = drawn(90)
    head = fit_head(features, labels, 3, penalty=penalty)
    deviation = np.sqrt(features.var(axis=0).mean())
    scaled = (features - features.mean(axis=0)) / deviation
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=5000)
    theirs.fit(scaled, labels)
    probs = np.exp(head.logits(features))
    probs /= probs.sum(axis=1, keepdims=True)
    assert np.abs(probs - theirs.predict_proba(scaled)).max() < 2e-3


def test_it_does_not_depend_on_offset_and_scale_of_the_features() -> None:
    features, labels = drawn(60)
    moved = 1000 * features + 5000
    first, second = (fit_head(x, labels, 3, penalty=0.1).logits(x) for x in (features, moved))
    assert np.abs(first - second).max() < 0.05


@pytest.mark.costly
def test_a_penalty_is_chosen_by_what_it_gives_on_other_images() -> None:
    clear, noise = drawn(300, spread=0.3), drawn(300, spread=6.0)
    other, labels = drawn(300, spread=0.3, seed=1)
    head = fit_head(*clear, 3)
    assert (head.logits(other).argmax(axis=1) == labels).mean() > 0.95
    assert head.penalty < fit_head(*noise, 3).penalty


def test_random_labels_give_no_confidence() -> None:
    features, _ = drawn(200, channels=50)
    labels = np.random.default_rng(5).integers(0, 3, 200).astype(np.int32)
    head = fit_head(features, labels, 3)
    assert head.penalty == PENALTIES[0]


def test_images_that_are_all_alike_give_the_shares_of_the_classes() -> None:
    labels = np.array([0, 0, 0, 1], np.int32)
    head = fit_head(np.ones((4, 5), np.float32), labels, 2)
    logits = head.logits(np.ones((1, 5), np.float32))[0]
    assert np.exp(logits[0] - logits[1]) == pytest.approx(3, rel=0.05)


def test_a_class_without_an_image_is_never_the_answer() -> None:
    features, labels = drawn(60)
    head = fit_head(features, labels, 4, penalty=0.01)
    assert head.weight.shape == (4, 8)
    assert 3 not in head.logits(features).argmax(axis=1)


def test_a_heavier_class_is_answered_more_often() -> None:
    features, labels = drawn(300, spread=5.0)
    light, heavy = (
        fit_head(features, labels, 3, penalty=0.1, class_weights=np.array(weights))
        for weights in ([1.0, 1.0, 1.0], [1.0, 1.0, 5.0])
    )
    counts = [(head.logits(features).argmax(axis=1) == 2).sum() for head in (light, heavy)]
    assert counts[1] > counts[0]


def test_every_image_is_held_out_once_but_the_only_one_of_a_class() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [2], np.int32)
    folds = fold_of_each(labels, 5)
    assert folds[-1] == -1
    assert np.bincount(folds[:10]).tolist() == [2] * 5
    assert sorted(folds[10:15]) == [0, 1, 2, 3, 4]


def test_two_images() -> None:
    features = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    head = fit_head(features, np.array([0, 1], np.int32), 2)
    assert head.logits(features).argmax(axis=1).tolist() == [0, 1]
