"""From a row of the table to a list of blocks: compound scaling, counts and cost, in plain Python.

Source: Tan & Le, "EfficientNet" (arXiv 1905.11946), section 3.3, with the rounding of the released
code (channels to multiples of 8, never below 90 %; repeats rounded up).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from effnet_core.family.variants import SE_RATIO, Variant

CHANNEL_DIVISOR = 8


@dataclass(frozen=True)
class Block:
    """One inverted-residual block, with all sizes final."""

    op: Literal["mb", "fused"]
    stage: int
    """Position of its stage in the table, from 0."""
    index_in_stage: int
    """Position in its stage, from 0."""
    in_channels: int
    hidden_channels: int
    """Channels of the inner part."""
    out_channels: int
    squeeze_channels: int
    """Channels of the squeeze-excite bottleneck; 0 where there is no gate."""
    kernel: int
    stride: int

    @property
    def expands(self) -> bool:
        """Whether the inner part is wider than the input."""
        return self.hidden_channels != self.in_channels

    @property
    def residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class Architecture:
    """A variant with every size worked out."""

    stem_channels: int
    blocks: tuple[Block, ...]
    head_channels: int


@dataclass(frozen=True)
class Cost:
    """Size of a network and work of one forward pass over one image."""

    parameters: int
    """Trainable parameters."""
    multiply_adds: int
    """Multiply-accumulate operations of convolutions and dense layers, the papers' 'FLOPs'."""


def round_channels(channels: int, width_mult: float) -> int:
    """``channels * width_mult`` as the nearest multiple of 8 that keeps at least 90 % of it."""
    scaled = channels * width_mult
    rounded = max(
        CHANNEL_DIVISOR, int(scaled + CHANNEL_DIVISOR / 2) // CHANNEL_DIVISOR * CHANNEL_DIVISOR
    )
    return rounded + CHANNEL_DIVISOR if rounded < 0.9 * scaled else rounded


def round_repeats(repeats: int, depth_mult: float) -> int:
    """``repeats * depth_mult``, rounded up."""
    return math.ceil(repeats * depth_mult)


def expand(variant: Variant) -> Architecture:
    """The blocks of a variant, first to last."""
    ends = 1.0 if variant.fixed_ends else variant.width_mult
    in_channels = stem = round_channels(variant.stem, ends)
    blocks = []
    for number, stage in enumerate(variant.stages):
        out_channels = round_channels(stage.channels, variant.width_mult)
        gated = variant.squeeze_excite and stage.op == "mb"
        for index in range(_repeats(variant, number)):
            blocks.append(
                Block(
                    op=stage.op,
                    stage=number,
                    index_in_stage=index,
                    in_channels=in_channels,
                    hidden_channels=in_channels * stage.expand_ratio,
                    out_channels=out_channels,
                    squeeze_channels=max(1, int(in_channels * SE_RATIO)) if gated else 0,
                    kernel=stage.kernel,
                    stride=stage.stride if index == 0 else 1,
                )
            )
            in_channels = out_channels
    return Architecture(stem, tuple(blocks), round_channels(variant.head, ends))


def _repeats(variant: Variant, stage: int) -> int:
    """Blocks of a stage; the first and the last stay as they are where the ends are fixed."""
    fixed = variant.fixed_ends and stage in (0, len(variant.stages) - 1)
    return round_repeats(variant.stages[stage].repeats, 1.0 if fixed else variant.depth_mult)


def drop_path_rates(num_blocks: int, rate: float) -> tuple[float, ...]:
    """Probability of dropping each block's residual branch: 0 for the first, growing linearly.

    The released code divides by the number of blocks, so the last block has a little less than
    ``rate``.
    """
    return tuple(rate * index / num_blocks for index in range(num_blocks))


@dataclass(frozen=True)
class Step:
    """One row of a network as it is computed: the stem, a stage, or the head with the classifier."""

    name: str
    kernel: int
    """Side of the kernel that is not 1x1, px."""
    blocks: int
    in_side: int
    """Side of its input, px."""
    out_side: int
    """Side of its output, px; 1 behind the head's mean."""
    channels: int
    """Output channels; of the last, the classes."""
    cost: Cost


def steps(
    variant: Variant, *, num_classes: int = 1000, image_size: int | None = None
) -> tuple[Step, ...]:
    """The rows of a variant's network, first to last, each with its size and work.

    Args:
        num_classes: outputs of the classifier.
        image_size: side of the input in px; the variant's own by default.
    """
    architecture = expand(variant)
    before = image_size or variant.image_size
    side = math.ceil(before / 2)
    stem, head = architecture.stem_channels, architecture.head_channels
    work = 3 * 9 * stem * side * side
    rows = [Step("stem", 3, 1, before, side, stem, Cost(3 * 9 * stem + 2 * stem, work))]
    for number, stage in enumerate(variant.stages):
        blocks = [block for block in architecture.blocks if block.stage == number]
        before, parameters, work = side, 0, 0
        for block in blocks:
            after = math.ceil(side / block.stride)
            size = _cost_of_block(block, side, after)
            parameters, work, side = parameters + size.parameters, work + size.multiply_adds, after
        name = f"{'fused ' if stage.op == 'fused' else ''}MBConv{stage.expand_ratio}"
        channels = blocks[-1].out_channels
        rows.append(
            Step(name, stage.kernel, len(blocks), before, side, channels, Cost(parameters, work))
        )
    last = architecture.blocks[-1].out_channels
    parameters = last * head + 2 * head + (head + 1) * num_classes
    work = last * head * side * side + head * num_classes
    rows.append(Step("head", 1, 1, side, 1, num_classes, Cost(parameters, work)))
    return tuple(rows)


def cost(variant: Variant, *, num_classes: int = 1000, image_size: int | None = None) -> Cost:
    """Parameters and multiply-adds of a variant, by arithmetic alone; arguments as of ``steps``."""
    rows = steps(variant, num_classes=num_classes, image_size=image_size)
    return Cost(
        sum(row.cost.parameters for row in rows), sum(row.cost.multiply_adds for row in rows)
    )


def _cost_of_block(block: Block, before: int, after: int) -> Cost:
    """Size and work of a block between an input and an output of these sides, px."""
    parameters = work = 0
    for weights, norms, at_input in _convolutions(block):
        parameters += weights + 2 * norms
        work += weights * (before if at_input else after) ** 2
    squeeze = 2 * block.hidden_channels * block.squeeze_channels
    if squeeze:
        parameters += squeeze + block.hidden_channels + block.squeeze_channels
    return Cost(parameters, work + squeeze)


def _convolutions(block: Block) -> list[tuple[int, int, bool]]:
    """Weights, output channels and "works at the input's size" of a block's convolutions."""
    wide, hidden, out = (
        block.in_channels * block.hidden_channels,
        block.hidden_channels,
        block.out_channels,
    )
    if block.op == "mb":
        widen = [(wide, hidden, True)] if block.expands else []
        return [*widen, (hidden * block.kernel**2, hidden, False), (hidden * out, out, False)]
    if block.expands:
        return [(wide * block.kernel**2, hidden, False), (hidden * out, out, False)]
    return [(block.in_channels * out * block.kernel**2, out, False)]
