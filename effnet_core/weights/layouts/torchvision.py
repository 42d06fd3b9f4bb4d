"""torchvision's files, B0-B7 and V2.

Source: torchvision/models/efficientnet.py, names and the ``transforms`` of each weights entry.
"""

from __future__ import annotations

from effnet_core.model.spec import IMAGENET_MEAN, IMAGENET_STD, Variant
from effnet_core.weights.layouts.base import Layout

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
