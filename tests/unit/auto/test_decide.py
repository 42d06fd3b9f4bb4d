"""What follows from data, machine and weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from effnet_core.auto.decide import (
    Decided,
    decide,
    only_probe,
    settle_mirroring,
    time_for_training,
)
from effnet_core.auto.estimate import batch_that_fits, estimate, told_again, with_speed
from effnet_core.auto.facts import Facts
from effnet_core.config.load import load_config
from effnet_core.errors import ConfigError
from effnet_core.results.paired import compare_counts

GB = 1e9
FACTS = Facts(
    train_counts=(40,) * 16,
    val_images=160,
    cores=2,
    gflops=100.0,
    free_bytes=8 * GB,
    variant="efficientnet_lite0",
    why_variant="installed",
    weights="efficientnet_lite0",
    why_weights="installed",
)


def decided(*overrides: str, **changed: object) -> Decided:
    return decide(load_config("auto", overrides), replace(FACTS, **changed))  # type: ignore[arg-type]


def test_800_photographs_are_probed_and_then_tuned_gently_for_minutes() -> None:
    config = decided().config
    assert (config.model.variant, config.model.weights) == ("efficientnet_lite0",) * 2
    assert (config.train.probe, config.train.final_model) == ("first", "best")
    assert config.data.global_batch_size == 16
    assert config.optim.accumulate_steps == 1
    assert 0 < decided().estimate.training_s < 300


def test_what_is_given_stays_and_the_rest_follows_it() -> None:
    made = decided("data.global_batch_size=8", "train.epochs=2", "optim.base_lr=0.5")
    assert made.config.data.global_batch_size == 8
    assert made.config.train.epochs == 2
    assert made.config.optim.base_lr == 0.5
    said = {decision.key: decision.reason for decision in made.decisions}
    assert said["data.global_batch_size"] == said["train.epochs"] == "as given"
    assert "free" in said["optim.accumulate_steps"]


def test_fast_trains_nothing() -> None:
    made = decided("auto.quality=fast")
    assert made.config.train.probe == "only"
    assert made.estimate.training_s == 0


def test_slow_steps_are_told_more_often() -> None:
    """Or a reminder comes between any two lines."""
    every = [decided(gflops=speed).config.train.log_every_steps for speed in (1000, 50, 25)]
    assert every[0] == 10
    assert 10 > every[1] > every[2] >= 1
    assert decided("train.log_every_steps=50", gflops=30).config.train.log_every_steps == 50


def test_best_takes_longer_than_good() -> None:
    assert decided("auto.quality=best").estimate.total_s > decided().estimate.total_s


def test_minutes_bound_the_whole_run() -> None:
    whole = decided("auto.quality=best").estimate
    for minutes in (1.5, 4.0):
        assert whole.total_s > 60 * minutes
        bounded = decided("auto.quality=best", f"auto.minutes={minutes}").estimate
        assert bounded.total_s - bounded.startup_s == pytest.approx(60 * minutes - 25, abs=1)
        assert bounded.startup_s < 25


def test_minutes_that_leave_no_time_for_training_end_with_the_probe() -> None:
    assert decided("auto.minutes=0.5").config.train.probe == "only"


def test_what_happens_once_is_told_once() -> None:
    """Kernels that are not built yet take their time; the length of the training does not change."""
    there, missing = decided(), decided(kernels_built=False)
    assert missing.estimate.training_s == pytest.approx(there.estimate.training_s + 12)
    assert missing.config == there.config
    builtin = [decided("runtime.kernels=builtin", kernels_built=there) for there in (True, False)]
    assert builtin[0].estimate == builtin[1].estimate
    large = decided(variant="efficientnet_b7", val_images=2, free_bytes=100 * GB).estimate
    assert large.startup_s > decided(val_images=2).estimate.startup_s + 10


def test_12_images_make_an_update_each_batch_fits_into() -> None:
    config = decided(train_counts=(5, 4), val_images=3).config
    assert config.data.global_batch_size <= 9


def test_8000_images_see_fewer_epochs_than_800() -> None:
    many, few = decided(train_counts=(400,) * 16).estimate, decided().estimate
    assert many.training_s / many.epoch_s < few.training_s / few.epoch_s


def test_a_batch_that_does_not_fit_into_memory_is_taken_in_parts() -> None:
    made = decided(variant="efficientnet_b4", weights="x", free_bytes=6 * GB)
    parts = made.config.optim.accumulate_steps
    assert parts > 1
    assert made.config.data.global_batch_size == 16
    facts = replace(FACTS, free_bytes=6 * GB)
    assert made.config.data.global_batch_size // parts <= batch_that_fits(made.config, facts)
    assert made.estimate.memory_bytes < 6 * GB


def test_what_cannot_fit_at_all_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError) as caught:
        decided(variant="efficientnet_b7", weights="x", free_bytes=4 * GB)
    told = str(caught.value)
    assert told.startswith("training efficientnet_b7 at 600 px with ")
    assert "of memory and 4.0 GB are free; lower data.image_size" in told


def test_unequal_classes_are_weighed_gently() -> None:
    counts = (100, 100, 1)
    weights = decided(train_counts=counts).config.train.class_weights
    assert weights == (0.819, 0.819, 4.0)
    assert decided(train_counts=(50, 40)).config.train.class_weights is None


def test_without_weights_a_run_starts_from_scratch_and_takes_longer() -> None:
    made = decided(variant="efficientnet_b0", weights=None)
    assert made.config.train.probe == "none"
    assert made.estimate.training_s > 2 * decided().estimate.training_s


def test_a_decision_is_one_line() -> None:
    lines = [str(decision) for decision in decided().decisions]
    assert all("\n" not in line for line in lines)
    assert lines[0].split(maxsplit=2)[:2] == ["model.variant", "efficientnet_lite0"]


def test_more_images_take_longer_and_larger_ones_more_memory() -> None:
    config = decided().config
    small, large = (
        estimate(config, FACTS),
        estimate(config, replace(FACTS, train_counts=(400,) * 16)),
    )
    assert large.epoch_s > 5 * small.epoch_s
    wide = config.model_copy(update={"data": config.data.model_copy(update={"image_size": 448})})
    assert estimate(wide, FACTS).memory_bytes > estimate(config, FACTS).memory_bytes


def test_a_variant_without_weights_at_hand_gives_way_and_says_why() -> None:
    made = decided(
        "model.variant=efficientnet_b3", why_variant="instead of efficientnet_b3: no network"
    )
    assert made.config.model.variant == made.config.model.weights == "efficientnet_lite0"
    assert made.config.data.image_size == 224
    assert made.decisions[0].reason == "instead of efficientnet_b3: no network"


def test_a_measured_speed_says_how_many_epochs_there_is_time_for() -> None:
    config = decided("train.budget=2 minutes").config
    slow, fast = (estimate(config, with_speed(FACTS, config, rate)) for rate in (40.0, 80.0))
    assert slow.epoch_s == pytest.approx(2 * fast.epoch_s, rel=0.1)
    assert f"time for about {120 / fast.epoch_s:.1f} epochs" in told_again(config, fast)
    by_epochs = decided("train.epochs=3").config
    assert "training about " in told_again(by_epochs, estimate(by_epochs, FACTS))


def test_what_the_probe_leaves_of_the_minutes_is_trained() -> None:
    asked = load_config("auto", ["auto.minutes=3"])
    config = decide(asked, FACTS).config
    fast, slow = (time_for_training(asked, config, spent_s=spent) for spent in (10.0, 80.0))
    assert fast is not None
    assert slow is not None
    assert 60 * fast.train.length.amount == pytest.approx(180 - 10 - 25, abs=1)
    assert 60 * slow.train.length.amount == pytest.approx(180 - 80 - 25, abs=1)
    assert time_for_training(asked, config, spent_s=150.0) is None
    assert only_probe(config).train.probe == "only"


def test_a_quality_that_is_named_is_not_trained_for_longer_than_it_needs() -> None:
    asked = load_config("auto", ["auto.minutes=30", "auto.quality=good"])
    config = decide(asked, FACTS).config
    assert time_for_training(asked, config, spent_s=10.0) == config


def test_a_length_that_is_given_is_kept_after_the_probe() -> None:
    for given in ("train.epochs=2", "train.budget=3 minutes"):
        asked = load_config("auto", ["auto.minutes=2", given])
        config = decide(asked, FACTS).config
        assert time_for_training(asked, config, spent_s=100.0) == config
    asked = load_config("auto", [])
    config = decide(asked, FACTS).config
    assert time_for_training(asked, config, spent_s=500.0) == config


@pytest.mark.parametrize(
    ("given", "cells", "flip_rate"),
    [
        ((), (60, 30, 2, 8), 0.0),
        ((), (88, 2, 2, 8), 0.5),  # photographs: no matter
        ((), (95, 4, 0, 1), 0.5),  # may be chance
        ((), (93, 6, 0, 1), 0.0),
        (("data.flip_rate=0.5",), (60, 30, 2, 8), 0.5),  # as given
    ],
)
def test_pictures_that_mean_something_else_in_a_mirror_are_not_mirrored(
    given: tuple[str, ...], cells: tuple[int, int, int, int], flip_rate: float
) -> None:
    asked = load_config("auto", given)
    config, decision = settle_mirroring(asked, decided(*given).config, compare_counts(*cells))
    assert config.data.flip_rate == flip_rate
    assert (decision is not None) is (flip_rate == 0)
    if cells[1] == 30 and decision is not None:
        assert decision.reason == (
            "mirrored pictures are other ones: the probe's top-1 is 90.0%, and 62.0% on them mirrored"
        )
    assert settle_mirroring(asked, config, None) == (config, None)
