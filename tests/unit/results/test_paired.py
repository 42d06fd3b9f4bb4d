"""Two models on the same images: counts, test, interval, and what the gate makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from effnet_core.errors import DataError
from effnet_core.results.answers import UNKNOWN, Answers, Origin, rank_answers
from effnet_core.results.paired import (
    Paired,
    compare_answers,
    compare_counts,
    interval,
    mcnemar,
    refusal,
)

NAMES = ("cat", "dog", "eel")


def answers(given: list[int], true: list[int], *, digest: str = "d", split: str = "val") -> Answers:
    n = len(true)
    return Answers(
        Origin("c" * 64, digest, split, 32, 3, calibrated=False),
        np.array(true, np.int32),
        np.array(given, np.int32)[:, None],
        np.full((n, 1), 0.5, np.float32),
        np.full(n, 0.5, np.float32),
    )


def test_pairs_are_counted_and_classes_too() -> None:
    true = [0, 0, 0, 1, 1, 2, 2, 2]
    old = answers([0, 0, 0, 1, 0, 0, 0, 2], true)
    new = answers([0, 1, 1, 1, 1, 2, 2, 0], true)
    found = compare_answers(old, new, class_names=NAMES, true=np.array(true), version="v1")
    assert (found.both, found.lost, found.won, found.images) == (2, 3, 3, 8)
    assert found.champion_top1 == found.challenger_top1 == 5 / 8
    assert found.difference == 0 and found.p_value == 1
    assert [(row.name, row.champion, row.challenger) for row in found.classes] == [
        ("cat", 3, 1),
        ("dog", 1, 2),
        ("eel", 1, 2),
    ]
    assert found.champion == "v1"
    assert Paired.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "3 images won and 3 lost of 8" in found.in_words()


def test_answers_to_other_images_are_not_compared() -> None:
    one = answers([0], [0])
    for other in (
        answers([0], [0], digest="e"),
        answers([0], [0], split="test"),
        answers([0] * 2, [0] * 2),
    ):
        with pytest.raises(DataError, match="the answers are to different images: 1 images of"):
            compare_answers(one, other, class_names=NAMES, true=np.array([0]))


def test_mcnemars_exact_test() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar(8, 2) == mcnemar(2, 8)
    assert mcnemar(0, 6) == pytest.approx(2 / 64)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for images, lost, won in ((50, 0.1, 0.1), (200, 0.05, 0.12), (2000, 0.03, 0.01)):
        cells = rng.multinomial(images, [lost, won, 1 - lost - won], size=2000)
        ends = np.array([interval(a, b, images) for a, b, _ in cells])
        inside = ((ends[:, 0] <= won - lost) & (won - lost <= ends[:, 1])).mean()
        assert 0.93 < inside < 0.985, (images, inside)
    low, high = interval(0, 0, 10)
    assert low < 0 < high


@pytest.mark.parametrize(
    ("promote_if", "margin", "lost", "won", "passes"),
    [
        ("not_worse", 0.0, 10, 10, True),
        ("not_worse", 0.0, 11, 10, False),
        ("not_worse", 0.01, 20, 10, True),
        ("not_worse", 0.01, 21, 10, False),
        ("better", 0.0, 10, 10, False),
        ("better", 0.0, 10, 11, True),
        ("better", 0.01, 10, 20, False),
        ("better", 0.01, 10, 21, True),
        ("significantly_better", 0.0, 10, 15, False),
        ("significantly_better", 0.0, 10, 30, True),
        ("significantly_better", 0.0, 30, 10, False),
        ("significantly_better", 0.01, 10, 30, False),
        ("significantly_better", 0.01, 10, 60, True),
    ],
)
def test_what_each_setting_lets_through(
    promote_if: str, margin: float, lost: int, won: int, passes: bool
) -> None:
    found = compare_counts(900 - lost - won, lost, won, 100)
    text = refusal(found.difference, promote_if=promote_if, margin=margin, found=found)  # type: ignore[arg-type]
    if promote_if == "significantly_better":
        assert refusal(found.difference, promote_if=promote_if, margin=margin)
    assert (text == "") is passes
    if text:
        assert f"evaluate.promote_margin={margin:g}" in text


# --- answers --------------------------------------------------------------------------------------


def test_the_best_classes_and_their_probabilities() -> None:
    logits = np.array([[0, 2, 1, 3, -1, 5], [1, 1, 1, 1, 1, 1]], np.float32)
    best, probs, of_true = rank_answers(logits, np.array([3, UNKNOWN], np.int32))
    assert best.tolist() == [[5, 3, 1, 2, 0], [0, 1, 2, 3, 4]]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert probs[0] == pytest.approx(shares[0, [5, 3, 1, 2, 0]])
    assert of_true == pytest.approx([shares[0, 3], 0])
    cooler = rank_answers(logits, np.array([3, 0], np.int32), temperature=2.0)
    assert cooler[0].tolist() == best.tolist() and cooler[1][0, 0] < probs[0, 0]


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    one = answers([0, 1], [0, 0])
    one.save(tmp_path / "answers.npz")
    back = Answers.read(tmp_path / "answers.npz")
    assert back.origin == one.origin and back.right.tolist() == [True, False]
    assert back.probs.dtype == np.float32


def test_damaged_answers_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "answers.npz"
    with pytest.raises(DataError, match="cannot be read"):
        Answers.read(path)
    answers([0, 1], [0, 0]).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:200] + b"x" * 50 + whole[250:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"answers\.npz (cannot be read|are damaged)"):
            Answers.read(path)
    np.savez(path, origin=np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        Answers.read(path)
