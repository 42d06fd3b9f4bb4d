"""MindVision's ``.ckpt`` files: torchvision's nesting, MindSpore's leaves.

Source: mindvision/classification/models/backbones/efficientnet.py, names listed from a built network.
"""

from effnet_core.weights.layouts.base import MINDSPORE_NORM, Layout

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
)
