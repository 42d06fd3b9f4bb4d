"""What a run will need, by arithmetic from a few figures; plain Python.

Work is counted in multiply-adds and memory in values that layers keep. Times are those of EfficientNet-B0 at
224 px with the native kernels. This machine's speed is its speed in a product of matrices against
``REFERENCE_GFLOPS``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from effnet_core.auto.facts import Facts
from effnet_core.config.schema import RunConfig
from effnet_core.family.scaling import cost, expand
from effnet_core.family.variants import Variant, variant
from effnet_core.text import format_seconds, human_bytes

REFERENCE_GFLOPS = 100.0
"""Of the product of two matrices of 1024 where the figures below hold; assumed."""
TRAIN_S, EVAL_S, ENGINE_S = 0.044, 0.020, 0.0076
"""Seconds an image of a training step (benchmarks/train.md), of MindSpore's forward pass, and of the engine,
which was 4.5 to 6.3 times as fast as the step on three processors (benchmarks/infer.md)."""
BUILTIN_SLOWER, BUILTIN_LARGER = 4.0, 2.3
"""MindSpore's built-in kernels against the native ones."""
BYTES_A_VALUE = 10.0
"""Of memory for each value that a layer puts out: outputs, gradients and what kernels keep."""
PROCESS_BYTES = 750e6
"""A process with MindSpore in it that has done nothing yet."""
STATE_COPIES = 6
"""Weights, gradients, the optimizer's two moments, and two copies on their way into checkpoints; float32."""
MOST_SLOWER = 4.0
"""A moment in which others use the machine says little about the minutes that follow."""
USABLE = 0.7
"""Share of the free memory that a run may plan with."""
STARTUP_S = 25.0
"""Seconds that a run in bounded time keeps for everything besides probe and steps."""
PROCESSES_S, COMPILE_S, BUILD_S = 4.0, 7.0, 12.0
"""Seconds to start and end a training job, to compile B0's graph, and to build the native kernels once;
measured with two cores."""
PROBE_STARTUP_S = 6.0
"""Seconds of a probe besides the features."""


@dataclass(frozen=True)
class Estimate:
    """What a run needs."""

    memory_bytes: float
    """Of all processes together, when they train."""
    probe_s: float
    """Seconds of the probe; 0 where there is none."""
    epoch_s: float
    """Seconds of an epoch with its evaluation."""
    training_s: float
    """Seconds of everything after the probe."""
    startup_s: float
    """Seconds of ``training_s`` that are neither steps nor the evaluation of an epoch."""

    @property
    def total_s(self) -> float:
        """Seconds of the run."""
        return self.probe_s + self.training_s


def estimate(config: RunConfig, facts: Facts) -> Estimate:
    """What a run with these settings needs on this machine."""
    slower = min(MOST_SLOWER, max(1 / MOST_SLOWER, REFERENCE_GFLOPS / facts.gflops))
    trained = relative_cost(config.row, config.train_image_size) * slower
    evaluated = relative_cost(config.row, config.image_size) * slower
    kernels = BUILTIN_SLOWER if config.runtime.kernels == "builtin" else 1.0
    probe_s = 0.0
    if config.train.probe != "none":
        probe_s = PROBE_STARTUP_S + (facts.train_images + facts.val_images) * ENGINE_S * evaluated
    eval_s = kernels * facts.val_images * EVAL_S * evaluated
    epoch_s = kernels * facts.train_images * TRAIN_S * trained + eval_s
    startup_s = _startup_s(config, facts, eval_s)
    training_s = _training_s(config, facts, epoch_s, startup_s)
    return Estimate(_memory(config), probe_s, epoch_s, training_s, startup_s)


def describe(config: RunConfig, estimate: Estimate, facts: Facts) -> str:
    """An estimate as a sentence."""
    if config.runtime.device != "CPU":
        return f"no estimate: nobody has measured how long a step takes on {config.runtime.device}"
    share = estimate.memory_bytes / max(1.0, facts.free_bytes)
    parts = []
    if estimate.probe_s:
        parts.append(f"the first model after about {format_seconds(estimate.probe_s)}")
    if estimate.training_s:
        parts.append(f"training about {format_seconds(estimate.training_s)}")
        parts.append(
            f"memory about {human_bytes(estimate.memory_bytes)} of the "
            f"{human_bytes(facts.free_bytes)} that are free ({share:.0%})"
        )
    return f"estimate: {', '.join(parts)}"


def with_speed(facts: Facts, config: RunConfig, images_per_s: float) -> Facts:
    """The facts with this machine's speed as features of images were computed, instead of a product's."""
    usual = ENGINE_S * relative_cost(config.row, config.image_size)
    return replace(facts, gflops=REFERENCE_GFLOPS * usual * images_per_s)


def told_again(config: RunConfig, estimate: Estimate) -> str:
    """An estimate by a measured speed, as a sentence."""
    epoch, length = format_seconds(estimate.epoch_s), config.train.length
    if length.unit != "minutes":
        return f"measured: an epoch takes about {epoch}, training about {format_seconds(estimate.training_s)}"
    epochs = 60 * length.amount / max(0.1, estimate.epoch_s)
    return f"measured: an epoch takes about {epoch}, so training has time for about {epochs:.1f} epochs"


def _startup_s(config: RunConfig, facts: Facts, eval_s: float) -> float:
    """Processes, the graph, and two evaluations at the end: of the best model, and to calibrate it."""
    compile_s = COMPILE_S * len(expand(config.row).blocks) / len(expand(_B0_ROW).blocks)
    build_s = 0.0 if facts.kernels_built or config.runtime.kernels == "builtin" else BUILD_S
    return PROCESSES_S + compile_s + build_s + 2 * eval_s


def _training_s(config: RunConfig, facts: Facts, epoch_s: float, startup_s: float) -> float:
    if config.train.probe == "only":
        return 0.0
    length, batch = config.train.length, config.data.global_batch_size
    if length.unit == "minutes":
        return startup_s + 60 * length.amount
    steps_per_epoch = max(1, facts.train_images * config.data.repeats // batch)
    steps = length.steps(steps_per_epoch=steps_per_epoch, batch_size=batch) or 0
    return startup_s + steps / steps_per_epoch * epoch_s


def relative_cost(row: Variant, image_size: int) -> float:
    """Work of an image in units of B0's at 224 px."""
    return cost(row, image_size=image_size).multiply_adds / _B0.multiply_adds


def batch_that_fits(config: RunConfig, facts: Facts) -> int:
    """Images that each rank may take at a time, as far as the memory goes; 0 where not even one fits."""
    left = USABLE * facts.free_bytes / config.runtime.local_world_size - _fixed_bytes(config)
    return max(0, math.floor(left / _image_bytes(config)))


def _memory(config: RunConfig) -> float:
    batch = (
        config.data.global_batch_size / config.runtime.world_size / config.optim.accumulate_steps
    )
    return config.runtime.local_world_size * (_fixed_bytes(config) + batch * _image_bytes(config))


def _fixed_bytes(config: RunConfig) -> float:
    return PROCESS_BYTES + STATE_COPIES * 4 * cost(config.row).parameters


def _image_bytes(config: RunConfig) -> float:
    larger = BUILTIN_LARGER if config.runtime.kernels == "builtin" else 1.0
    return larger * BYTES_A_VALUE * values_kept(config.row, config.train_image_size)


def values_kept(row: Variant, image_size: int) -> int:
    """Values that the layers of a network put out for one image."""
    architecture = expand(row)
    side = math.ceil(image_size / 2)
    total = architecture.stem_channels * side * side
    for block in architecture.blocks:
        after = math.ceil(side / block.stride)
        inner = 2 * block.hidden_channels * after * after if block.op == "mb" else 0
        widened = block.hidden_channels * (side if block.op == "mb" else after) ** 2
        total += (widened if block.expands else 0) + inner + block.out_channels * after * after
        side = after
    return total + architecture.head_channels * side * side


_B0_ROW = variant("efficientnet_b0")
_B0 = cost(_B0_ROW, image_size=224)
