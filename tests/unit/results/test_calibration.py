"""One temperature makes probabilities honest; answers stay."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from effnet_core.results import EvalResult
from effnet_core.results.calibration import (
    BINS,
    Calibration,
    Reliability,
    bin_sums,
    calibrate,
    fit_calibration,
    fit_temperature,
)


def honest(images: int, *, classes: int = 5, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Logits whose probabilities are true: labels are drawn from them."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.standard_normal((images, classes))).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (shares.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)
    return logits, labels.astype(np.int32)


@pytest.mark.parametrize("factor", [0.25, 0.6, 1.0, 3.0])
def test_the_fit_finds_the_factor_that_made_a_model_over_or_underconfident(factor: float) -> None:
    logits, labels = honest(20_000)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.03)


def test_calibration_lowers_the_error_on_images_that_it_was_not_fitted_on() -> None:
    logits, labels = honest(8000)
    fitted = fit_temperature(4 * logits[:4000], labels[:4000])
    found = calibrate(4 * logits[4000:], labels[4000:], fitted)
    assert found.before.ece > 0.15
    assert found.after.ece < 0.03
    assert found.loss_after < found.loss_before
    assert found.before.right and sum(found.before.right) == sum(found.after.right)


def test_a_model_without_a_mistake_is_not_called_infallible() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 360).astype(np.int32)
    logits = rng.standard_normal((360, 10)).astype(np.float32)
    logits[np.arange(360), labels] = 6 + rng.random(360)
    temperature = fit_temperature(logits, labels)
    found = calibrate(logits, labels, temperature).after
    assert 0.99 < found.mean_certainty < 0.9999
    assert 0.05 < temperature < 20


def test_few_images_fit_nothing() -> None:
    logits, labels = honest(49)
    assert fit_temperature(3 * logits, labels) == 1.0


def test_a_temperature_that_helps_nowhere_else_is_not_kept() -> None:
    """On 145 images of an honest model a fitted temperature makes the probabilities of others worse."""
    many, labels = honest(40_000, seed=1)
    kept, worse = 0, 0
    for seed in range(20):
        logits, few = honest(145, seed=100 + seed)
        fitted = calibrate(many, labels, fit_temperature(logits, few))
        worse += fitted.after.ece > fitted.before.ece
        found = fit_calibration(logits, few)
        kept += found.temperature != 1.0
        assert (found.refused is None) == (found.temperature != 1.0)
        assert found.before == found.after or found.refused is None
    assert worse >= 18
    assert kept <= 5


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_temperature_that_helps_is_kept_on_a_small_split(factor: float) -> None:
    many, labels = honest(40_000, seed=1)
    kept = 0
    for seed in range(10):
        logits, few = honest(145, seed=100 + seed)
        found = fit_calibration(factor * logits, few)
        kept += found.temperature != 1.0
        elsewhere = calibrate(factor * many, labels, found.temperature)
        assert elsewhere.after.ece <= elsewhere.before.ece
    assert kept >= 9


def test_the_error_is_the_gap_between_certainty_and_accuracy() -> None:
    certainty = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    right = np.array([True, True, True, False, True, False])
    found = Reliability.of(certainty, right)
    by_hand = (4 * abs(0.75 - 0.95) + 2 * abs(0.5 - 0.55)) / 6
    assert found.ece == pytest.approx(by_hand)
    assert found.points() == [(pytest.approx(0.55), 0.5, 2), (pytest.approx(0.95), 0.75, 4)]
    halves = [bin_sums(certainty[part], right[part]) for part in (slice(2), slice(2, 6))]
    assert Reliability.of_sums(sum(halves)).ece == pytest.approx(by_hand)
    assert Reliability().ece == 0.0
    assert bin_sums(np.array([0.0, 1.0]), np.array([False, True]))[0].tolist() == [
        1,
        *[0] * (BINS - 2),
        1,
    ]


def test_it_travels_as_json_inside_a_result() -> None:
    logits, labels = honest(200)
    found = calibrate(logits, labels, 1.5)
    result = EvalResult(200, 100, 150, 1.0, class_names=list("abcde"), calibration=found)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["calibration"]["before"]["ece"] == pytest.approx(found.before.ece)
    assert EvalResult.from_dict(values) == result
    assert Calibration.from_dict(found.to_dict()) == found
    refused = fit_calibration(*honest(145, seed=100))
    assert Calibration.from_dict(json.loads(json.dumps(refused.to_dict()))) == refused
    for nonsense in ({"temperature": "1"}, [], {**found.to_dict(), "before": None}):
        with pytest.raises(ValueError, match=r"calibration|temperature|object"):
            Calibration.from_dict(nonsense)
