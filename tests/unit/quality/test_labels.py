"""Wrong labels are found among the first, and near copies are shown once."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from effnet_core.errors import DataError
from effnet_core.quality.labels import confident_learning, out_of_fold
from effnet_core.quality.queue import Candidate, without_copies
from tests.support.images import draw, encode


def test_by_hand() -> None:
    """Two classes; the third image is called 0 and is surer to be 1 than ones usually are."""
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.55, 0.45]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = confident_learning(probs, labels)
    # thresholds: 0 -> 0.6, 1 -> 0.65; only the third image is surely of another class
    assert found.suspected == 1
    assert found.order[0] == 2 and found.suggestion[2] == 1
    assert found.margin[2] == pytest.approx(-0.8)
    assert found.order[1] == 5  # not suspected, but the narrowest of the rest
    assert sorted(found.order.tolist()) == list(range(6))


@pytest.mark.costly
def test_planted_errors_in_the_digits_are_found_among_the_first_hundred() -> None:
    """5 % of 1,797 labels are wrong; the features are the pixels themselves."""
    digits = load_digits()
    features = digits.data.astype(np.float32)
    rng = np.random.default_rng(0)
    labels = digits.target.astype(np.int64)
    planted = rng.choice(len(labels), round(0.05 * len(labels)), replace=False)
    labels[planted] = (labels[planted] + rng.integers(1, 10, len(planted))) % 10
    found = confident_learning(out_of_fold(features, labels, classes=10), labels)
    among = np.isin(found.order[:100], planted).sum()
    assert among >= 75, among  # at random it would be 5
    right = found.suggestion[planted] == digits.target[planted]
    assert right.mean() > 0.85
    assert 70 < found.suspected < 160


def test_too_few_images_and_classes_that_are_rare() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 8)).astype(np.float32)
    with pytest.raises(DataError, match=r"40 images of 1 class\(es\) are too few"):
        out_of_fold(features, np.zeros(40, np.int64), classes=3)
    labels = np.array([0] * 20 + [1] * 19 + [2], np.int64)
    probs = out_of_fold(features, labels, classes=4)
    assert probs.shape == (40, 4) and probs.sum(axis=1) == pytest.approx(1)
    assert (probs[:, 3] == 0).all()


def test_copies_are_shown_once_and_what_cannot_be_read_not_at_all() -> None:
    def one(name: str) -> Candidate:
        return Candidate(name, "cat", (("cat", 0.5),), "uncertain", is_labelled=False)

    first = draw(200, 150, seed=1)
    found = [
        (one("a.png"), encode(first)),
        (one("smaller.jpg"), encode(first.resize((160, 120)), "JPEG", quality=90)),
        (one("broken.png"), b"no picture"),
        (one("b.png"), encode(draw(200, 150, seed=2))),
        (one("c.png"), encode(draw(200, 150, seed=3))),
    ]
    assert [c.path for c, _ in without_copies(found, 9)] == ["a.png", "b.png", "c.png"]
    assert [c.path for c, _ in without_copies(found, 2)] == ["a.png", "b.png"]
