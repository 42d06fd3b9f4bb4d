"""The family as data: stage rows and one row a variant. Nothing else knows these numbers.

Sources: Tan & Le, "EfficientNet" (arXiv 1905.11946), table 1 and section 5; the accuracies are
those of MindVision's EfficientNet page (MindSpore top-1/top-5, TensorFlow top-1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from effnet_core.errors import ConfigError, nearest


@dataclass(frozen=True)
class Stage:
    """One row of the network table, before scaling."""

    expand_ratio: int
    """Width of the block's inner part as a multiple of its input."""
    kernel: int
    """Side of the depthwise kernel, px."""
    stride: int
    """Stride of the stage's first block; the others have 1."""
    channels: int
    """Output channels."""
    repeats: int
    """Number of blocks."""


@dataclass(frozen=True)
class Variant:
    """One member of the family."""

    name: str
    width_mult: float
    depth_mult: float
    image_size: int
    """Side of the square input at which it was published, px."""
    crop_pct: float
    """Share of the resized side that the centre crop keeps in evaluation."""
    drop_rate: float
    """Probability of dropping an input of the classifier in training."""
    top1: float | None = None
    """Published ImageNet top-1 of MindVision's checkpoint, 0-1."""
    top5: float | None = None
    """Published ImageNet top-5 of MindVision's checkpoint, 0-1."""
    reference_top1: float | None = None
    """ImageNet top-1 that TensorFlow's release states, 0-1."""
    stem: int = 32
    head: int = 1280
    stages: tuple[Stage, ...] = ()
    hidden: bool = False
    """Left out of lists for people: exists for tests."""


BASE_STAGES: tuple[Stage, ...] = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)

# Three blocks with every kind of layer that the family has: for tests, trains in seconds.
TINY_STAGES: tuple[Stage, ...] = (
    Stage(1, 3, 1, 8, 1),
    Stage(4, 5, 2, 16, 2),
)

DROP_PATH_RATE = 0.2
"""Probability of dropping the deepest block's residual branch, for every variant."""

SE_RATIO = 0.25
"""Width of a squeeze-excite bottleneck as a share of the block's input."""

_ROWS = (
    Variant("efficientnet_b0", 1.0, 1.0, 224, 0.875, 0.2, 0.774, 0.934, 0.771, stages=BASE_STAGES),
    Variant("efficientnet_b1", 1.0, 1.1, 240, 0.882, 0.2, 0.784, 0.942, 0.791, stages=BASE_STAGES),
    Variant("efficientnet_b2", 1.1, 1.2, 260, 0.890, 0.3, 0.803, 0.950, 0.801, stages=BASE_STAGES),
    Variant("efficientnet_b3", 1.2, 1.4, 300, 0.904, 0.3, 0.819, 0.960, 0.816, stages=BASE_STAGES),
    Variant("efficientnet_b4", 1.4, 1.8, 380, 0.922, 0.4, 0.832, 0.964, 0.829, stages=BASE_STAGES),
    Variant("efficientnet_b5", 1.6, 2.2, 456, 0.934, 0.4, 0.828, 0.964, 0.836, stages=BASE_STAGES),
    Variant("efficientnet_b6", 1.8, 2.6, 528, 0.942, 0.5, 0.836, 0.966, 0.840, stages=BASE_STAGES),
    Variant("efficientnet_b7", 2.0, 3.1, 600, 0.949, 0.5, 0.835, 0.966, 0.843, stages=BASE_STAGES),
    Variant(
        "efficientnet_tiny",
        1.0,
        1.0,
        32,
        0.875,
        0.1,
        stem=8,
        head=32,
        stages=TINY_STAGES,
        hidden=True,
    ),
)

VARIANTS: Mapping[str, Variant] = MappingProxyType({row.name: row for row in _ROWS})


def variant(name: str) -> Variant:
    """The row called ``name``.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name not in VARIANTS:
        public = [row.name for row in VARIANTS.values() if not row.hidden]
        raise ConfigError(
            f"model.variant={name!r} is unknown{nearest(name, public)} (known: {', '.join(public)})"
        )
    return VARIANTS[name]
