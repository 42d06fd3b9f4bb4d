"""Confusions of few and of very many classes."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effnet_core.errors import DataError
from effnet_core.render import plots
from effnet_core.results import EvalResult, TrainResult
from effnet_core.results.confusion import Confusion, ConfusionCounter
from effnet_core.system.files import write_json

ROWS = [[5, 0, 2], [9, 1, 0], [2, 3, 4]]


def test_confusions_are_ranked_and_summed() -> None:
    confusion = Confusion.from_dense(ROWS)
    assert confusion.mistakes() == [(1, 0, 9), (2, 1, 3), (0, 2, 2), (2, 0, 2)]
    assert (confusion.seen, confusion.correct) == (26, 10)
    assert confusion.by_true().tolist() == [7, 10, 9]
    assert confusion.by_answer().tolist() == [16, 4, 6]
    assert confusion.right().tolist() == [5, 1, 4]
    assert confusion.dense().tolist() == ROWS
    assert confusion.dense([2, 0]).tolist() == [[4, 2], [2, 5]]
    assert Confusion.empty().mistakes() == [] and not Confusion.empty()


def test_counting_piece_by_piece_gives_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_core.results.confusion.MOST_WAITING", 7)
    rng = np.random.default_rng(0)
    true, answer = rng.integers(0, 3, (2, 50))
    counter = ConfusionCounter(3)
    for start in range(0, 50, 4):
        counter.add(true[start : start + 4], answer[start : start + 4])
    cells = np.zeros((3, 3), np.int64)
    np.add.at(cells, (true, answer), 1)
    assert counter.total() == Confusion.from_dense(cells.tolist())
    assert counter.total() == counter.total()


def test_what_is_written_is_read_also_as_rows_of_earlier_versions() -> None:
    confusion = Confusion.from_dense(ROWS)
    assert Confusion.from_value(json.loads(json.dumps(confusion.to_dict()))) == confusion
    assert Confusion.from_value(ROWS) == confusion
    assert Confusion.from_value([]) == Confusion.empty()
    assert confusion != Confusion.from_dense([[5, 0, 2], [9, 1, 0], [2, 3, 5]])


@pytest.mark.costly
def test_21000_classes_cost_what_their_images_cost() -> None:
    """A dense matrix has 441 million cells: 3.5 GB of numbers, 900 MB of JSON."""
    classes, images = 21_000, 50_000
    rng = np.random.default_rng(0)
    tracemalloc.start()
    counter = ConfusionCounter(classes)
    for _ in range(10):
        true = rng.integers(0, classes, images // 10)
        counter.add(true, np.where(rng.random(len(true)) < 0.7, true, rng.integers(0, classes)))
    found = counter.total()
    text = json.dumps(found.to_dict())
    assert Confusion.from_value(json.loads(text)) == found
    kept = plots.select_matrix_classes(found)
    assert found.dense(kept).shape == (40, 40)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert len(text) < 2 << 20
    assert found.seen == images == int(found.by_true().sum()) == int(found.by_answer().sum())


@pytest.mark.parametrize(
    "value",
    [
        3,
        "x",
        [[1, 2], [3]],
        [[1, -2], [3, 4]],
        [[1, 2.5], [3, 4]],
        [1, 2],
        {},
        {"classes": 2, "true": [0], "answer": [2], "images": [1]},
        {"classes": 2, "true": [-1], "answer": [1], "images": [1]},
        {"classes": 2, "true": [0, 1], "answer": [1], "images": [1]},
        {"classes": 2, "true": [True], "answer": [1], "images": [1]},
        {"classes": -2, "true": [0], "answer": [1], "images": [1]},
        {"classes": 2, "true": [0], "answer": [1], "images": [-1]},
        {"classes": 1 << 70, "true": [0], "answer": [1], "images": [1]},
        {"classes": 2, "true": 0, "answer": 1, "images": 1},
    ],
)
def test_nonsense_is_no_confusion(value: Any) -> None:
    with pytest.raises(ValueError, match="confusion"):
        Confusion.from_value(value)


RESULT = EvalResult(
    seen=26,
    correct1=10,
    correct5=26,
    loss=0.5,
    confusion=Confusion.from_dense(ROWS),
    class_names=["a", "b", "c"],
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"correct1": 27}, "must be from 0 to seen=26"),
        ({"correct1": 11}, "confusion counts 26 images, 10 of them right, but seen=26"),
        ({"seen": "many"}, "seen: Input should be a valid integer"),
        ({"loss": float("nan")}, "loss: Input should be a finite number"),
        ({"class_names": ["a"]}, "confusion has 3 classes, but there are 1 names"),
        ({"class_names": "abc"}, "class_names: Input should be a valid list"),
        ({"other": 1}, "other: Extra inputs are not permitted"),
        ({"confusion": None}, "confusion must have classes"),
    ],
)
def test_an_evaluation_of_nonsense_is_a_sentence(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "result.json"
    write_json(path, RESULT.to_dict())
    assert EvalResult.read(path) == RESULT
    write_json(path, {**RESULT.to_dict(), **changes})
    with pytest.raises(DataError, match=words) as caught:
        EvalResult.read(path)
    assert str(caught.value).startswith(f"evaluation {path} is damaged or of another version (")
    with pytest.raises(DataError, match="damaged"):
        TrainResult.read(path)


def test_a_headline_keeps_the_figures() -> None:
    classes = 21_000
    names = [f"class {i}" for i in range(classes)]
    result = EvalResult(seen=10, correct1=5, correct5=8, loss=1.0, class_names=names)
    head = result.headline()
    assert (head.top1, head.top5, head.class_names, head.num_classes) == (0.5, 0.8, [], classes)
    assert len(json.dumps(head.to_dict())) < 500
