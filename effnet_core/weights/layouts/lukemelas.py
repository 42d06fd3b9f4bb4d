"""lukemelas/EfficientNet-PyTorch and its Lite offspring: TensorFlow's names, padding and eps.

The Lite port states ImageNet's mean and deviation for its weights, unlike TensorFlow's Lite.
"""

from effnet_core.model.spec import IMAGENET_MEAN, IMAGENET_STD
from effnet_core.weights.layouts.base import Layout

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
    preprocess=lambda row: {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
)
