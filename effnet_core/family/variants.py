"""The family as data: stage rows and one row a variant. Nothing else knows these numbers.

Sources: Tan & Le, "EfficientNet" (arXiv 1905.11946), table 1 and section 5; "EfficientNetV2" (arXiv
2104.00298), tables 4 and 7; the README of the EfficientNet-Lite release. The accuracies are those of
MindVision's EfficientNet page (MindSpore top-1/top-5, TensorFlow top-1) and of the releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from effnet_core.errors import ConfigError
from effnet_core.text import nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Stage:
    """One row of the network table, before scaling."""

    op: Literal["mb", "fused"]
    """``mb``: expand, depthwise, project; ``fused``: the first two are one full convolution."""
    expand_ratio: int
    """Width of the block's inner part as a multiple of its input."""
    kernel: int
    """Side of the kernel that is not 1x1, px."""
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
    stages: tuple[Stage, ...] = ()
    stem: int = 32
    head: int = 1280
    squeeze_excite: bool = True
    """Whether ``mb`` blocks have a squeeze-excite gate; ``fused`` ones never do."""
    activation: Literal["silu", "relu6"] = "silu"
    fixed_ends: bool = False
    """Whether stem and head are not widened, and first and last stage not deepened."""
    train_size: int | None = None
    """Side of the input in training where it is another than in evaluation, px."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """For R, G, B, in 0-1 units."""
    std: tuple[float, float, float] = IMAGENET_STD
    """For R, G, B, in 0-1 units."""
    hidden: bool = False
    """Left out of lists for people: exists for tests."""


BASE_STAGES: tuple[Stage, ...] = (
    Stage("mb", 1, 3, 1, 16, 1),
    Stage("mb", 6, 3, 2, 24, 2),
    Stage("mb", 6, 5, 2, 40, 2),
    Stage("mb", 6, 3, 2, 80, 3),
    Stage("mb", 6, 5, 1, 112, 3),
    Stage("mb", 6, 5, 2, 192, 4),
    Stage("mb", 6, 3, 1, 320, 1),
)

V2_S_STAGES: tuple[Stage, ...] = (
    Stage("fused", 1, 3, 1, 24, 2),
    Stage("fused", 4, 3, 2, 48, 4),
    Stage("fused", 4, 3, 2, 64, 4),
    Stage("mb", 4, 3, 2, 128, 6),
    Stage("mb", 6, 3, 1, 160, 9),
    Stage("mb", 6, 3, 2, 256, 15),
)

V2_M_STAGES: tuple[Stage, ...] = (
    Stage("fused", 1, 3, 1, 24, 3),
    Stage("fused", 4, 3, 2, 48, 5),
    Stage("fused", 4, 3, 2, 80, 5),
    Stage("mb", 4, 3, 2, 160, 7),
    Stage("mb", 6, 3, 1, 176, 14),
    Stage("mb", 6, 3, 2, 304, 18),
    Stage("mb", 6, 3, 1, 512, 5),
)

V2_L_STAGES: tuple[Stage, ...] = (
    Stage("fused", 1, 3, 1, 32, 4),
    Stage("fused", 4, 3, 2, 64, 7),
    Stage("fused", 4, 3, 2, 96, 7),
    Stage("mb", 4, 3, 2, 192, 10),
    Stage("mb", 6, 3, 1, 224, 19),
    Stage("mb", 6, 3, 2, 384, 25),
    Stage("mb", 6, 3, 1, 640, 7),
)

# Three blocks with every kind of layer that the family has: for tests, trains in seconds.
TINY_STAGES: tuple[Stage, ...] = (
    Stage("mb", 1, 3, 1, 8, 1),
    Stage("mb", 4, 5, 2, 16, 2),
)

TINY_V2_STAGES: tuple[Stage, ...] = (
    Stage("fused", 1, 3, 1, 8, 2),
    Stage("fused", 4, 3, 2, 16, 2),
    Stage("mb", 4, 3, 2, 24, 2),
)

DROP_PATH_RATE = 0.2
"""Probability of dropping the deepest block's residual branch, for every variant."""

Padding = Literal["symmetric", "same"]
"""Padding: (kernel - 1) // 2 on each side, or TensorFlow's SAME, which depends on the input."""

DEFAULT_PADDING: Padding = "symmetric"
DEFAULT_BN_EPS = 1e-3

SE_RATIO = 0.25
"""Width of a squeeze-excite bottleneck as a share of the block's input."""


def _lite(
    name: str, width: float, depth: float, size: int, crop: float, drop: float, reference: float
) -> Variant:
    """A row of the Lite release: no gates, ReLU6, ends of fixed size, pixels between about -1 and 1."""
    return Variant(
        name,
        width,
        depth,
        size,
        crop,
        drop,
        reference_top1=reference,
        stages=BASE_STAGES,
        squeeze_excite=False,
        activation="relu6",
        fixed_ends=True,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )


def _v2(
    name: str, train_size: int, size: int, drop: float, reference: float, stages: tuple[Stage, ...]
) -> Variant:
    """A row of EfficientNetV2: written out, not scaled; trained on smaller images than it is used on."""
    return Variant(
        name,
        1.0,
        1.0,
        size,
        1.0,
        drop,
        reference_top1=reference,
        stages=stages,
        stem=stages[0].channels,
        train_size=train_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


_ROWS = (
    Variant("efficientnet_b0", 1.0, 1.0, 224, 0.875, 0.2, 0.774, 0.934, 0.771, stages=BASE_STAGES),
    Variant("efficientnet_b1", 1.0, 1.1, 240, 0.882, 0.2, 0.784, 0.942, 0.791, stages=BASE_STAGES),
    Variant("efficientnet_b2", 1.1, 1.2, 260, 0.890, 0.3, 0.803, 0.950, 0.801, stages=BASE_STAGES),
    Variant("efficientnet_b3", 1.2, 1.4, 300, 0.904, 0.3, 0.819, 0.960, 0.816, stages=BASE_STAGES),
    Variant("efficientnet_b4", 1.4, 1.8, 380, 0.922, 0.4, 0.832, 0.964, 0.829, stages=BASE_STAGES),
    Variant("efficientnet_b5", 1.6, 2.2, 456, 0.934, 0.4, 0.828, 0.964, 0.836, stages=BASE_STAGES),
    Variant("efficientnet_b6", 1.8, 2.6, 528, 0.942, 0.5, 0.836, 0.966, 0.840, stages=BASE_STAGES),
    Variant("efficientnet_b7", 2.0, 3.1, 600, 0.949, 0.5, 0.835, 0.966, 0.843, stages=BASE_STAGES),
    _lite("efficientnet_lite0", 1.0, 1.0, 224, 0.875, 0.2, 0.751),
    _lite("efficientnet_lite1", 1.0, 1.1, 240, 0.882, 0.2, 0.767),
    _lite("efficientnet_lite2", 1.1, 1.2, 260, 0.890, 0.3, 0.776),
    _lite("efficientnet_lite3", 1.2, 1.4, 280, 0.897, 0.3, 0.798),
    _lite("efficientnet_lite4", 1.4, 1.8, 300, 0.904, 0.3, 0.815),
    _v2("efficientnet_v2_s", 300, 384, 0.2, 0.839, V2_S_STAGES),
    _v2("efficientnet_v2_m", 384, 480, 0.3, 0.851, V2_M_STAGES),
    _v2("efficientnet_v2_l", 384, 480, 0.4, 0.857, V2_L_STAGES),
    Variant(
        "efficientnet_tiny",
        1.0,
        1.0,
        32,
        0.875,
        0.1,
        stages=TINY_STAGES,
        stem=8,
        head=32,
        hidden=True,
    ),
    Variant(
        "efficientnet_tiny_one",
        1.0,
        1.0,
        32,
        0.875,
        0.1,
        stages=TINY_STAGES[:1],
        stem=8,
        head=32,
        hidden=True,
    ),
    Variant(
        "efficientnet_tiny_lite",
        1.0,
        1.5,
        32,
        0.875,
        0.1,
        stages=TINY_STAGES,
        stem=8,
        head=32,
        squeeze_excite=False,
        activation="relu6",
        fixed_ends=True,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        hidden=True,
    ),
    Variant(
        "efficientnet_tiny_v2",
        1.0,
        1.0,
        40,
        1.0,
        0.1,
        stages=TINY_V2_STAGES,
        stem=8,
        head=32,
        train_size=32,
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
