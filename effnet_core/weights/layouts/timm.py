"""timm's files: its own models, and the ``tf_`` ones, which have the same names and TensorFlow's padding.

Source: timm/models/efficientnet.py, names and ``default_cfgs``.
"""

from __future__ import annotations

from dataclasses import replace

from effnet_core.model.spec import IMAGENET_MEAN, IMAGENET_STD, Variant
from effnet_core.weights.layouts.base import Layout, family

# Of timm's own weights: image_size in evaluation, crop_pct.
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
