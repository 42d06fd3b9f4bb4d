"""Settings that follow from data, machine and weights, each with its reason; plain Python, no files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from effnet_core.auto.estimate import STARTUP_S, Estimate, batch_that_fits, estimate
from effnet_core.auto.facts import Facts
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.results.paired import Paired
from effnet_core.text import human_bytes

PEAK_LR = 2.5e-4
"""Peak rate of fine-tuning, as it is used, for AdamW; the scratch one is SCRATCH_LR."""
SCRATCH_LR = 2e-3
BATCHES = (32, 16, 8, 4, 2)
"""Global batches, the largest first of which a set has MIN_STEPS in an epoch."""
MIN_STEPS = 25
UNEQUAL = 3.0
"""The largest class holds so many times the smallest where classes are weighed."""
MOST_WEIGHT = 4.0
"""Of a class; a class of one image must not outvote the others."""
MOST_WEIGHED = 1_000
"""Classes; of more, weights would fill the settings."""
IMAGES_SEEN = {"good": 4_000, "best": 30_000}
"""By fine-tuning, all epochs together, but no fewer than FEWEST_EPOCHS and no more than MOST_EPOCHS."""
FEWEST_EPOCHS = {"good": 3, "best": 10}
MOST_EPOCHS = {"good": 12, "best": 60}
LONGEST_MIN = {"fast": 3.5, "good": 3.5, "best": 40.0}
"""Minutes of training for each thousand images, or for fewer."""
SCRATCH_FACTOR = 10
"""So many times the epochs where nothing was learned before."""
MIRROR_LOSS, MIRROR_CHANCE = 0.03, 0.05
"""Top-1 that mirrored images cost at least, and how rarely chance does that, where they are left out."""
MOST_STEPS_A_LINE, LINE_S = 10, 6.0
"""Steps between two lines of a run, and seconds: a reminder comes after ten."""
SHORTEST_TRAINING_S = 20.0
"""Less than that after the probe is not worth starting."""


@dataclass(frozen=True)
class Decision:
    """One setting, its value and why."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return "{key:<26} {value:<22} {reason}".format(**self.shown())

    def shown(self) -> dict[str, str]:
        """Key, value and reason as people read them."""
        value = "none" if self.value is None else self.value
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        return {"key": self.key, "value": shown, "reason": self.reason}


@dataclass(frozen=True)
class Decided:
    """Settings without an open end, and what was decided."""

    config: RunConfig
    decisions: tuple[Decision, ...]
    estimate: Estimate


class _Open:
    """Settings under decision: what a person gave stays."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.given = {
            f"{section}.{key}"
            for section in RunConfig.model_fields
            for key in getattr(config, section).model_fields_set
        }
        self.found: dict[str, Decision] = {}

    def settle(self, key: str, value: Any, reason: str) -> None:
        """Decide a setting, or decide it anew, unless it was given."""
        section, _, leaf = key.partition(".")
        part = getattr(self.config, section)
        if key in self.given:
            self.found[key] = Decision(key, getattr(part, leaf), "as given")
            return
        changed = part.model_copy(update={leaf: value})
        self.config = self.config.model_copy(update={section: changed})
        self.found[key] = Decision(key, value, reason)

    def is_given(self, key: str) -> bool:
        """Whether a person gave it."""
        return key in self.given


def decide(config: RunConfig, facts: Facts) -> Decided:
    """Decide what the settings leave open.

    Args:
        config: as the person gave it; what was given is known by pydantic's ``model_fields_set``.
        facts: of data, machine and weights.

    Raises:
        ConfigError: what was given cannot fit into this machine's memory, or a value of it is not allowed.
    """
    plan = _Open(config)
    _settle_model(plan, facts)
    _settle_batch(plan, facts)
    quality = plan.config.auto.quality
    if facts.pretrained and quality == "fast":
        plan.settle(
            "train.probe", "only", "auto.quality=fast: a classifier on the weights' features"
        )
        plan.settle(
            "train.final_model", "best", "what is kept of training never is worse than the probe"
        )
    else:
        _settle_training(plan, facts)
        _settle_length(plan, facts)
    settled = RunConfig.model_validate(
        plan.config.model_dump()
    )  # its rules hold for what was decided, too
    return Decided(settled, tuple(plan.found.values()), estimate(settled, facts))


def _settle_model(plan: _Open, facts: Facts) -> None:
    if facts.variant != plan.config.model.variant:
        plan.given.discard("model.variant")  # there are no weights for the one that was given
    plan.settle("model.variant", facts.variant, facts.why_variant)
    plan.settle("model.weights", facts.weights, facts.why_weights)
    size, row = plan.config.train_image_size, plan.config.row
    plan.settle("data.image_size", size, f"{row.name} was made for it")
    if facts.pretrained:
        plan.settle("model.new_head", True, "the weights' own classes are others")
    plan.settle("runtime.world_size", 1, f"one process computes on all {facts.cores} core(s)")
    few = min(facts.train_counts, default=0)
    most = max(facts.train_counts, default=0)
    if few and most >= UNEQUAL * few and len(facts.train_counts) <= MOST_WEIGHED:
        why = (
            f"classes have from {few} to {most} images: the rarer, the heavier, by the square root"
        )
        plan.settle("train.class_weights", _gentle_weights(facts.train_counts), why)


def _gentle_weights(counts: tuple[int, ...]) -> tuple[float, ...]:
    mean = sum(counts) / len(counts)
    return tuple(round(min(MOST_WEIGHT, (mean / max(1, n)) ** 0.5), 3) for n in counts)


def _settle_batch(plan: _Open, facts: Facts) -> None:
    images, world = facts.train_images, plan.config.runtime.world_size
    batch = next((b for b in BATCHES if b * MIN_STEPS <= images), BATCHES[-1])
    batch = max(world, min(batch, images) // world * world)
    why = f"{images // batch} updates an epoch of {images:,} images"
    plan.settle("data.global_batch_size", batch, why)
    if plan.config.auto.quality == "fast" and facts.pretrained:
        return  # nothing is trained
    if plan.config.runtime.device != "CPU":
        return  # whose memory is not this machine's
    share = max(1, plan.config.data.global_batch_size // world)
    fits = batch_that_fits(plan.config, facts)
    if fits < 1:
        raise ConfigError(_cannot_fit(plan.config, facts))
    parts = next(n for n in _divisors(share) if share // n <= fits)
    if parts > 1:
        why = f"{fits} image(s) at a time are what fits into {human_bytes(facts.free_bytes)} of memory"
    else:
        why = f"a batch fits into the {human_bytes(facts.free_bytes)} that are free"
    plan.settle("optim.accumulate_steps", parts, why)
    if share // plan.config.optim.accumulate_steps > fits:
        raise ConfigError(_cannot_fit(plan.config, facts))


def _divisors(number: int) -> Iterator[int]:
    return (n for n in range(1, number + 1) if number % n == 0)


def _cannot_fit(config: RunConfig, facts: Facts) -> str:
    needed = estimate(config, facts).memory_bytes
    return (
        f"training {config.model.variant} at {config.train_image_size} px with "
        f"{config.data.global_batch_size // config.optim.accumulate_steps} image(s) at a time needs about "
        f"{human_bytes(needed)} of memory and {human_bytes(facts.free_bytes)} are free; lower "
        "data.image_size or data.global_batch_size, raise optim.accumulate_steps, choose a smaller "
        "model.variant, or set auto.quality=fast, which trains nothing"
    )


def _settle_training(plan: _Open, facts: Facts) -> None:
    batch = plan.config.data.global_batch_size
    rate = PEAK_LR if facts.pretrained else SCRATCH_LR
    plan.settle("optim.name", "adamw", "it needs no search for a rate")
    if plan.config.optim.name == "adamw":
        plan.settle("optim.epsilon", 1e-8, "adamw's usual one")
        plan.settle("optim.weight_decay", 0.01, "adamw's usual one")
    plan.settle("optim.base_lr", rate * 256 / batch, f"a peak rate of {rate:g}")
    plan.settle("data.crop_scale", (0.5, 1.0), "crops that leave most of a picture in")
    if facts.pretrained:
        plan.settle("train.probe", "first", "fine-tuning distorts less from a fitted classifier")
        plan.settle("train.freeze_bn", True, "so that training starts from what the probe answers")
        plan.settle("model.drop_path_rate", 0.0, "a short run has no time to overfit")
        plan.settle("model.drop_rate", 0.0, "likewise")
        plan.settle("train.label_smoothing", 0.05, "the classifier was fitted without it")
    plan.settle(
        "train.final_model", "best", "what is kept of training never is worse than the probe"
    )
    plan.settle("train.log_every_steps", _steps_a_line(plan, facts), "a line every some seconds")
    plan.settle("train.checkpoint_every_minutes", 2.0, "what an interruption costs at most")


def _steps_a_line(plan: _Open, facts: Facts) -> int:
    if plan.config.runtime.device != "CPU":
        return MOST_STEPS_A_LINE
    steps = max(1, facts.train_images // plan.config.data.global_batch_size)
    step_s = estimate(plan.config, facts).epoch_s / steps
    return max(1, min(MOST_STEPS_A_LINE, math.floor(LINE_S / step_s)))


def _settle_length(plan: _Open, facts: Facts) -> None:
    """Epochs where they are given, else the minutes that enough epochs take here: the estimate holds."""
    quality, images = plan.config.auto.quality, facts.train_images
    epochs = round(IMAGES_SEEN.get(quality, 4_000) / max(1, images))
    epochs = min(MOST_EPOCHS.get(quality, 12), max(FEWEST_EPOCHS.get(quality, 3), epochs))
    if not facts.pretrained:
        epochs *= SCRATCH_FACTOR
    on_cpu = plan.config.runtime.device == "CPU"
    if plan.is_given("train.epochs") or plan.is_given("train.budget") or not on_cpu:
        plan.settle("train.epochs", epochs, f"{images:,} images, auto.quality={quality}")
        epochs = plan.config.train.epochs
    else:
        _settle_minutes(plan, facts, epochs)
    steps = epochs * max(1, images // plan.config.data.global_batch_size)
    if not plan.config.train.freeze_bn:
        momentum = 0.99 if steps > 1_000 else 0.9
        plan.settle(
            "model.bn_momentum", momentum, f"statistics follow within some {steps:,} updates"
        )
    length = plan.config.train.length
    warmup = min(0.5, length.amount / 4) if length.unit == "epochs" else 0.5
    plan.settle("schedule.warmup_epochs", warmup, "the first updates are gentle")


def _settle_minutes(plan: _Open, facts: Facts, epochs: int) -> None:
    """The minutes of training: what so many epochs take, or what the run may."""
    quality, minutes = plan.config.auto.quality, plan.config.auto.minutes
    train = plan.config.train.model_copy(update={"epochs": epochs})
    cost = estimate(plan.config.model_copy(update={"train": train}), facts)
    wanted_s = cost.training_s - cost.startup_s
    if minutes is not None:
        left_s = 60 * minutes - facts.spent_s - cost.probe_s - STARTUP_S
        why = f"what auto.minutes={minutes:g} leaves"
        if left_s + cost.probe_s < SHORTEST_TRAINING_S and facts.pretrained:
            plan.settle("train.probe", "only", f"auto.minutes={minutes:g} leaves no time for more")
            return
        if not plan.is_given("auto.quality"):
            wanted_s = max(wanted_s, left_s)  # who names the minutes wants them to be used
    else:
        left_s = 60 * LONGEST_MIN[quality] * max(1.0, facts.train_images / 1_000)
        left_s *= 1 if facts.pretrained else SCRATCH_FACTOR
        why = f"the longest for auto.quality={quality}; auto.minutes allows more"
    if wanted_s <= left_s:
        why = f"about {epochs} epochs of {facts.train_images:,} images on this machine"
    seconds = max(SHORTEST_TRAINING_S, min(wanted_s, left_s))
    plan.settle("train.budget", f"{seconds / 60:.2f} minutes", why)


def time_for_training(asked: RunConfig, decided: RunConfig, *, spent_s: float) -> RunConfig | None:
    """The settings with the training that ``auto.minutes`` leaves after the probe; None if it leaves none.

    Args:
        asked: as the person gave them.
        decided: as they were decided before the probe, which may have been faster or slower than estimated.
        spent_s: seconds of the run that are gone.
    """
    minutes, given = asked.auto.minutes, asked.train.model_fields_set
    if minutes is None or decided.train.probe == "only" or given & {"epochs", "budget"}:
        return decided
    left_s = 60 * minutes - spent_s - STARTUP_S
    if left_s < SHORTEST_TRAINING_S:
        return None
    length = decided.train.length
    if "quality" in asked.auto.model_fields_set and length.unit == "minutes":
        left_s = min(left_s, 60 * length.amount)  # it is long enough for that quality
    train = decided.train.model_copy(update={"budget": f"{left_s / 60:.2f} minutes"})
    return decided.model_copy(update={"train": train})


def settle_mirroring(
    asked: RunConfig, decided: RunConfig, mirror: Paired | None
) -> tuple[RunConfig, Decision | None]:
    """Leave mirrored pictures out of training where the probe shows that they mean something else.

    A mirrored photograph of a cat still shows a cat; a mirrored 2 is not a digit.

    Args:
        asked: as the person gave them.
        decided: as they were decided before the probe.
        mirror: the probe's answers to mirrored images, against those to the same images as they are.

    Returns:
        The settings, and the decision, if one was made.
    """
    if mirror is None or "flip_rate" in asked.data.model_fields_set:
        return decided, None
    if mirror.difference > -MIRROR_LOSS or mirror.p_value > MIRROR_CHANCE:
        return decided, None
    data = decided.data.model_copy(update={"flip_rate": 0.0})
    why = (
        f"mirrored pictures are other ones: the probe's top-1 is {mirror.champion_top1:.1%}, and "
        f"{mirror.challenger_top1:.1%} on them mirrored"
    )
    return decided.model_copy(update={"data": data}), Decision("data.flip_rate", 0.0, why)


def only_probe(config: RunConfig) -> RunConfig:
    """The settings of a run that ends with its probe."""
    train = config.train.model_copy(update={"probe": "only"})
    return config.model_copy(update={"train": train})
