"""mindcv's ``.ckpt`` files: flat lists of layers, TensorFlow's padding.

Source: mindcv/models/efficientnet.py, names listed from a built network.
"""

from effnet_core.weights.layouts.base import MINDSPORE_NORM, Layout

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
