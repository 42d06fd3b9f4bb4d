"""Pictures that are like the held-out ones raise no alarm; pictures of another kind do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from effnet_core.errors import DataError
from effnet_core.results.drift import (
    FEWEST_IMAGES,
    SIZES,
    Drift,
    Observed,
    Reference,
    distance,
    make_reference,
    measure,
)

CLASSES = tuple("0123456789")


def looks_of(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels.mean(axis=1), pixels.std(axis=1)], axis=1) * 16


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    found = load_digits()
    order = np.random.default_rng(3).permutation(len(found.data))
    return found.data[order].astype(np.float32), found.target[order].astype(np.int64)


@pytest.fixture(scope="module")
def reference(digits: tuple[np.ndarray, np.ndarray]) -> Reference:
    """What 400 digits look like; the features are the pixels themselves."""
    pixels, labels = (part[:400] for part in digits)
    sure = np.full(400, 0.9)
    return make_reference(
        pixels, labels, sure, looks_of(pixels), classes=10, checkpoint_sha256="c" * 64
    )


def drift(reference: Reference, pixels: np.ndarray, labels: np.ndarray) -> Drift:
    n = len(pixels)
    parts = [
        Observed.of(
            reference,
            pixels[part],
            labels[part],
            np.full(len(labels[part]), 0.9),
            looks_of(pixels[part]),
            [f"{i}.png" for i in range(n)[part]],
        )
        for part in (slice(0, n // 2), slice(n // 2, n))
    ]
    return measure(reference, Observed.together(parts), class_names=CLASSES)


def test_false_alarms_are_rare(reference: Reference, digits: tuple[np.ndarray, np.ndarray]) -> None:
    """100 draws of 100 pictures that the reference has not seen."""
    pixels, labels = (part[400:] for part in digits)
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(100):
        chosen = rng.choice(len(pixels), 100, replace=False)
        alarms += drift(reference, pixels[chosen], labels[chosen]).drifted
    assert alarms <= 3


def test_other_pictures_raise_an_alarm_and_it_is_said_what_changed(
    reference: Reference, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    pixels, labels = (part[400:500] for part in digits)
    inverted = drift(reference, 16 - pixels, labels)
    assert inverted.drifted and inverted.distance > 3 * inverted.threshold
    assert inverted.brightness > 2 and inverted.far_share > 0.9
    shifted = np.roll(pixels.reshape(-1, 8, 8), 2, axis=2).reshape(-1, 64)
    assert drift(reference, shifted, labels).drifted

    one_class = labels == 3
    found = drift(
        reference, digits[0][400:][digits[1][400:] == 3], digits[1][400:][digits[1][400:] == 3]
    )
    assert one_class.any() and found.drifted
    name, before, now = found.classes[0]
    assert (name, now) == ("3", 1.0) and 0.05 < before < 0.2

    mixed = pixels.copy()
    mixed[7] = 16 - mixed[7]
    found = drift(reference, mixed, labels)
    assert found.farthest[0][0] == "7.png"
    assert not found.drifted


def test_what_lies_between_the_classes_is_far_out() -> None:
    """A trained model's features lie around the centre, class by class; the centre itself is no class."""
    rng = np.random.default_rng(0)
    corners = 8 * np.eye(6)
    features = corners[np.arange(300) % 6] + rng.standard_normal((300, 6)) * 0.5
    found = make_reference(
        features.astype(np.float32),
        np.arange(300) % 6,
        np.ones(300),
        np.zeros((300, 2)),
        classes=6,
        checkpoint_sha256="c",
    )
    between = np.broadcast_to(corners.mean(axis=0), (1, 6)).astype(np.float32)
    inside = (corners[:1] + 0.3).astype(np.float32)
    assert found.outside(found.project(between))[0] > 1.5
    assert found.outside(found.project(inside))[0] < 1
    others = corners[np.arange(600) % 6] + rng.standard_normal((600, 6)) * 0.5
    assert (found.outside(found.project(others.astype(np.float32))) > 1).mean() < 0.03


def test_few_pictures_say_nothing(
    reference: Reference, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    few = FEWEST_IMAGES - 1
    found = drift(reference, 16 - digits[0][:few], digits[1][:few])
    assert not found.drifted and found.distance == 0
    assert found.far_share > 0.9


def test_the_distance_of_a_standard_normal_sample_shrinks_with_its_size() -> None:
    rng = np.random.default_rng(0)
    small, large = (distance(rng.standard_normal((n, 8))) for n in (50, 5000))
    assert large < 0.02 < small
    assert distance(rng.standard_normal((5000, 8)) + 1) == pytest.approx(8, rel=0.05)


def test_a_reference_is_read_as_it_was_written(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "r.npz")
    back = Reference.read(tmp_path / "r.npz")
    assert back.checkpoint_sha256 == reference.checkpoint_sha256 and back.far == reference.far
    assert np.array_equal(back.directions, reference.directions)
    assert np.all(np.diff(back.thresholds) < 0) and len(back.thresholds) == len(SIZES)
    assert back.threshold(1) == back.thresholds[0] and back.threshold(10**6) == back.thresholds[-1]
    for content in (b"", b"PK", (tmp_path / "r.npz").read_bytes()[:300]):
        (tmp_path / "r.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"reference .* (cannot be read|is damaged)"):
            Reference.read(tmp_path / "r.npz")


def test_too_few_held_out_pictures() -> None:
    one = np.zeros((59, 4), np.float32)
    with pytest.raises(DataError, match="59 held-out pictures are too few"):
        make_reference(
            one,
            np.zeros(59, np.int64),
            np.zeros(59),
            np.zeros((59, 2)),
            classes=2,
            checkpoint_sha256="c",
        )
