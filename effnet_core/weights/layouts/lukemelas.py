"""lukemelas/EfficientNet-PyTorch and its Lite offspring: TensorFlow's names, padding and eps.

The Lite port's examples normalise with ImageNet's mean and deviation, but its weights are TensorFlow's and
want 127/128: the class in the picture then gets 0.40 for 0.23 (chelsea), 0.95 for 0.78 (coffee) and 0.31
for 0.09 (flower). So both families keep the variant's own.
"""

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
)
