"""How each publisher names the parameters of this family: one small table a publisher, read both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from effnet_core.data.images import WHITE
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.family.scaling import Block, expand
from effnet_core.family.variants import (
    DEFAULT_BN_EPS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Padding,
    Variant,
)

Family = Literal["b", "lite", "v2"]
Kind = Literal["mb", "mb_expand", "fused", "fused_expand"]

MINDSPORE_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
TORCH_NORM = ("weight", "bias", "running_mean", "running_var")

# The parts of a block by their native names; "se" only where there is a gate.
PARTS: Mapping[Kind, tuple[str, ...]] = {
    "mb": (
        "depthwise.conv",
        "depthwise.norm",
        "se.reduce",
        "se.expand",
        "project.conv",
        "project.norm",
    ),
    "mb_expand": (
        *("expand.conv", "expand.norm", "depthwise.conv", "depthwise.norm"),
        *("se.reduce", "se.expand", "project.conv", "project.norm"),
    ),
    "fused": ("fused.conv", "fused.norm"),
    "fused_expand": ("fused.conv", "fused.norm", "project.conv", "project.norm"),
}


def variant_eps(row: Variant) -> float:
    """BatchNorm's eps in the code bases that follow torchvision: larger from B5 on, and in V2."""
    return 1e-3 if row.width_mult >= 1.6 or family(row) == "v2" else 1e-5


@dataclass(frozen=True)
class Layout:
    """How one publisher names the parameters, and what else comes with the names."""

    name: str
    stem: tuple[str, str]
    """Convolution and norm before the blocks."""
    head: tuple[str, str]
    """Convolution and norm after the blocks; ``{stages}`` is the number of stages."""
    classifier: str
    block: str
    """What a block's names begin with: ``{stage}`` and ``{index}`` count from 0, ``{flat}`` over all."""
    parts: Mapping[Kind, tuple[str, ...]]
    """The parts of a block, in the order of ``PARTS``."""
    norm: tuple[str, str, str, str] = TORCH_NORM
    families: tuple[Family, ...] = ("b", "lite", "v2")
    eps: Callable[[Variant], float] = variant_eps
    padding: Padding = "symmetric"
    ignored: tuple[str, ...] = ("num_batches_tracked",)
    """Ends of names that carry nothing."""
    preprocess: Callable[[Variant], dict[str, object]] = field(default=lambda row: {})
    """What differs from the variant's own preprocessing."""
    tells: str = ""
    """Part of a file's name that tells this layout from another with the same names."""

    def names(self, row: Variant) -> dict[str, str]:
        """This layout's name of every parameter of a variant, by its native name."""
        architecture = expand(row)
        pairs = [("stem.conv", self.stem[0]), ("stem.norm", self.stem[1])]
        for flat, block in enumerate(architecture.blocks):
            prefix = self.block.format(
                stage=block.stage,
                stage1=block.stage + 1,
                stage3=block.stage + 3,
                index=block.index_in_stage,
                flat=flat,
            )
            for part, foreign in zip(PARTS[_kind(block)], self.parts[_kind(block)], strict=True):
                if block.squeeze_channels or not part.startswith("se."):
                    pairs.append((f"blocks.{flat}.{part}", prefix + foreign))
        count = len(row.stages)
        stages = {"after": count + 1, "flat_conv": count + 3, "flat_norm": count + 4}
        pairs += [
            ("head.conv", self.head[0].format(**stages)),
            ("head.norm", self.head[1].format(**stages)),
            ("classifier", self.classifier),
        ]
        return {
            f"{native}.{mine}": f"{foreign}.{theirs}"
            for native, foreign in pairs
            for mine, theirs in self._leaves(native)
        }

    def _leaves(self, part: str) -> list[tuple[str, str]]:
        if part.endswith("norm"):
            return list(zip(MINDSPORE_NORM, self.norm, strict=True))
        if part.endswith("conv"):
            return [("weight", "weight")]
        return [("weight", "weight"), ("bias", "bias")]

    def spec(self, row: Variant) -> PreprocessSpec:
        """The preprocessing that weights of this layout expect."""
        own = PreprocessSpec(
            row.image_size, row.crop_pct, row.interpolation, row.mean, row.std, WHITE
        )
        return replace(own, **self.preprocess(row))  # type: ignore[arg-type]


def _kind(block: Block) -> Kind:
    if block.op == "mb":
        return "mb_expand" if block.expands else "mb"
    return "fused_expand" if block.expands else "fused"


def family(row: Variant) -> Family:
    """Which branch of the family a variant is of."""
    if any(stage.op == "fused" for stage in row.stages):
        return "v2"
    return "b" if row.squeeze_excite else "lite"


def shapes(row: Variant, *, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its native name, in the order of the network."""
    architecture = expand(row)
    result: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inside: int, kernel: int) -> None:
        result[f"{name}.conv.weight"] = (out, inside, kernel, kernel)
        result.update({f"{name}.norm.{leaf}": (out,) for leaf in MINDSPORE_NORM})

    conv("stem", architecture.stem_channels, 3, 3)
    for flat, block in enumerate(architecture.blocks):
        name, hidden = f"blocks.{flat}", block.hidden_channels
        if block.op == "fused":
            wide = hidden if block.expands else block.out_channels
            conv(f"{name}.fused", wide, block.in_channels, block.kernel)
            if block.expands:
                conv(f"{name}.project", block.out_channels, wide, 1)
            continue
        if block.expands:
            conv(f"{name}.expand", hidden, block.in_channels, 1)
        conv(f"{name}.depthwise", hidden, 1, block.kernel)
        if squeeze := block.squeeze_channels:
            result[f"{name}.se.reduce.weight"] = (squeeze, hidden, 1, 1)
            result[f"{name}.se.reduce.bias"] = (squeeze,)
            result[f"{name}.se.expand.weight"] = (hidden, squeeze, 1, 1)
            result[f"{name}.se.expand.bias"] = (hidden,)
        conv(f"{name}.project", block.out_channels, hidden, 1)
    conv("head", architecture.head_channels, architecture.blocks[-1].out_channels, 1)
    result["classifier.weight"] = (num_classes, architecture.head_channels)
    result["classifier.bias"] = (num_classes,)
    return result


# This project's own names (model/network.py).
NATIVE = Layout(
    name="native",
    stem=("stem.conv", "stem.norm"),
    head=("head.conv", "head.norm"),
    classifier="classifier",
    block="blocks.{flat}.",
    parts=PARTS,
    norm=MINDSPORE_NORM,
    eps=lambda row: DEFAULT_BN_EPS,
    ignored=(),
)

MINDVISION_SCALE = 32
"""MindVision evaluates on the centre of a picture whose shorter side is so much longer than the input's."""


def _mindvision(row: Variant) -> dict[str, object]:
    # Half a pixel more than side + 32, so that the floor of crop_pct's division is that.
    return {
        "crop_pct": row.image_size / (row.image_size + MINDVISION_SCALE + 0.5),
        "interpolation": "bilinear",
    }


# MindVision's .ckpt files: torchvision's nesting, MindSpore's leaves.
# Source: mindvision/classification/models/backbones/efficientnet.py, names listed from a built network;
# classification/dataset/imagenet.py: Resize(side + 32) with MindSpore's default filter, then CenterCrop.
MINDVISION = Layout(
    name="mindvision",
    stem=("backbone.features.0.features.0", "backbone.features.0.features.1"),
    head=("backbone.features.{after}.features.0", "backbone.features.{after}.features.1"),
    classifier="head.dense",
    block="backbone.features.{stage1}.{index}.block.",
    parts={
        "mb": (
            *("0.features.0", "0.features.1", "1.conv_reduce", "1.conv_expand"),
            *("2.features.0", "2.features.1"),
        ),
        "mb_expand": (
            *("0.features.0", "0.features.1", "1.features.0", "1.features.1"),
            *("2.conv_reduce", "2.conv_expand", "3.features.0", "3.features.1"),
        ),
    },
    norm=MINDSPORE_NORM,
    families=("b",),
    ignored=(),
    preprocess=_mindvision,
)

# mindcv's .ckpt files: flat lists of layers, TensorFlow's padding.
# Source: mindcv/models/efficientnet.py, names listed from a built network.
MINDCV = Layout(
    name="mindcv",
    stem=("features.0", "features.1"),
    head=("features.{flat_conv}", "features.{flat_norm}"),
    classifier="mlp_head",
    block="features.{stage3}.{index}.block.",
    parts={
        "mb": ("0", "1", "3.conv_reduce", "3.conv_expand", "4", "5"),
        "mb_expand": ("0", "1", "3", "4", "6.conv_reduce", "6.conv_expand", "7", "8"),
    },
    norm=MINDSPORE_NORM,
    families=("b",),
    padding="same",
    ignored=(),
)

# lukemelas/EfficientNet-PyTorch and the Lite port of it: TensorFlow's names, padding and eps.
# The Lite port's examples normalise with ImageNet's mean and deviation, but its weights are TensorFlow's and
# want 127/128: the class in the picture then gets 0.40 for 0.23 (chelsea), 0.95 for 0.78 (coffee) and 0.31
# for 0.09 (flower). So both families keep the variant's own.
LUKEMELAS = Layout(
    name="lukemelas",
    stem=("_conv_stem", "_bn0"),
    head=("_conv_head", "_bn1"),
    classifier="_fc",
    block="_blocks.{flat}.",
    parts={
        "mb": ("_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"),
        "mb_expand": (
            *("_expand_conv", "_bn0", "_depthwise_conv", "_bn1"),
            *("_se_reduce", "_se_expand", "_project_conv", "_bn2"),
        ),
    },
    families=("b", "lite"),
    eps=lambda row: 1e-3,
    padding="same",
)

# image_size, side before the crop, interpolation
_SIZES = {
    "efficientnet_b0": (224, 256, "bicubic"),
    "efficientnet_b1": (240, 256, "bicubic"),
    "efficientnet_b2": (288, 288, "bicubic"),
    "efficientnet_b3": (300, 320, "bicubic"),
    "efficientnet_b4": (380, 384, "bicubic"),
    "efficientnet_b5": (456, 456, "bicubic"),
    "efficientnet_b6": (528, 528, "bicubic"),
    "efficientnet_b7": (600, 600, "bicubic"),
    "efficientnet_v2_s": (384, 384, "bilinear"),
    "efficientnet_v2_m": (480, 480, "bilinear"),
    "efficientnet_v2_l": (480, 480, "bicubic"),
}


def _preprocess(row: Variant) -> dict[str, object]:
    if row.name not in _SIZES:
        return {}
    size, resize, interpolation = _SIZES[row.name]
    half = row.name == "efficientnet_v2_l"  # the one that came from TensorFlow
    return {
        "image_size": size,
        "crop_pct": size / resize,
        "interpolation": interpolation,
        "mean": (0.5, 0.5, 0.5) if half else IMAGENET_MEAN,
        "std": (0.5, 0.5, 0.5) if half else IMAGENET_STD,
    }


# torchvision's files, B0-B7 and V2.
# Source: torchvision/models/efficientnet.py, names and the transforms of each weights entry.
TORCHVISION = Layout(
    name="torchvision",
    stem=("features.0.0", "features.0.1"),
    head=("features.{after}.0", "features.{after}.1"),
    classifier="classifier.1",
    block="features.{stage1}.{index}.block.",
    parts={
        "mb": ("0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1"),
        "mb_expand": ("0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1"),
        "fused": ("0.0", "0.1"),
        "fused_expand": ("0.0", "0.1", "1.0", "1.1"),
    },
    families=("b", "v2"),
    preprocess=_preprocess,
)

# timm's own weights: image_size in evaluation, crop_pct.
_OWN = {
    "efficientnet_b1": (256, 1.0),
    "efficientnet_b2": (288, 1.0),
    "efficientnet_b3": (320, 1.0),
    "efficientnet_b4": (384, 1.0),
}

# timm lists two of the Lite models at other sizes than the release.
_TF_LITE = {
    "efficientnet_lite3": (300, 0.904, "bicubic"),
    "efficientnet_lite4": (380, 0.92, "bilinear"),
}


def _own(row: Variant) -> dict[str, object]:
    changes: dict[str, object] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if row.name in _OWN:
        changes["image_size"], changes["crop_pct"] = _OWN[row.name]
    return changes


def _tensorflow(row: Variant) -> dict[str, object]:
    if family(row) != "lite":
        return {}
    size, crop, filter = _TF_LITE.get(row.name, (row.image_size, row.crop_pct, "bicubic"))
    return {
        "image_size": size,
        "crop_pct": crop,
        "interpolation": filter,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }


# timm's files: its own models, and the tf_ ones, which have the same names and TensorFlow's padding.
# Source: timm/models/efficientnet.py, names and default_cfgs.
TIMM = Layout(
    name="timm",
    stem=("conv_stem", "bn1"),
    head=("conv_head", "bn2"),
    classifier="classifier",
    block="blocks.{stage}.{index}.",
    parts={
        "mb": ("conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2"),
        "mb_expand": (
            *("conv_pw", "bn1", "conv_dw", "bn2"),
            *("se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"),
        ),
        "fused": ("conv", "bn1"),
        "fused_expand": ("conv_exp", "bn1", "conv_pwl", "bn2"),
    },
    eps=lambda row: 1e-5,
    preprocess=_own,
    tells="efficientnet",
)
TIMM_TF = replace(
    TIMM,
    name="timm-tf",
    eps=lambda row: 1e-3,
    padding="same",
    preprocess=_tensorflow,
    tells="tf_efficientnet",
)

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (NATIVE, MINDVISION, MINDCV, TORCHVISION, TIMM, TIMM_TF, LUKEMELAS)
    }
)
