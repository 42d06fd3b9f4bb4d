"""Precision, recall and F1 against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from effnet_core.results.confusion import Confusion, ConfusionCounter
from effnet_core.results.per_class import PerClass


def test_figures_and_averages_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    true, answer = rng.integers(0, 7, (2, 400))
    answer[answer == 3] = 2  # a class that is never answered
    counter = ConfusionCounter(7)
    counter.add(true, answer)
    found = PerClass.of(counter.total())
    wanted = precision_recall_fscore_support(true, answer, zero_division=0)
    for name, column in zip(("precision", "recall", "f1", "images"), wanted, strict=True):
        assert np.nan_to_num(getattr(found, name)) == pytest.approx(column), name
    for average in ("macro", "weighted"):
        values = precision_recall_fscore_support(true, answer, average=average, zero_division=0)
        mine = getattr(found, average)()
        assert (mine.precision, mine.recall, mine.f1) == pytest.approx(values[:3])
    assert found.worst(2)[0] == 3
    assert len(found.worst(99)) == 7


def test_classes_without_images_have_no_figures() -> None:
    found = PerClass.of(Confusion.from_dense([[2, 1, 0], [0, 0, 0], [0, 0, 0]]))
    assert found.recall[0] == pytest.approx(2 / 3) and np.isnan(found.recall[1:]).all()
    assert found.precision[1] == 0 and np.isnan(found.precision[2])
    assert found.worst(9) == [0]
    assert found.macro().recall == pytest.approx(2 / 3)
    assert PerClass.of(Confusion.empty(2)).macro().f1 == 0


def test_some_classes_of_a_matrix() -> None:
    whole = Confusion.from_dense([[2, 1, 0], [0, 0, 0], [3, 0, 4]])
    assert whole.of_classes(np.array([0, 2])).dense().tolist() == [[2, 0], [3, 4]]
