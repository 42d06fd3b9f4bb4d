"""The network as MindSpore cells, built from the table in ``spec.py``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from effnet_core.family.scaling import Architecture, Block, expand
from effnet_core.family.variants import DEFAULT_BN_EPS, DEFAULT_PADDING, Padding
from effnet_core.family.variants import variant as variant_row
from effnet_core.model.layers import (
    TO_LAST,
    ConvNormAct,
    GlobalMean,
    LayerSettings,
    Layout,
    SqueezeExcite,
    fused_expansion,
)


class Residual(nn.Cell):
    """What both kinds of block share: the shortcut around the branch."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.residual = block.residual

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def construct(self, x: Tensor, branch_scale: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C', H/s, W/s); ``branch_scale`` (N, 1, 1, 1) multiplies the branch."""
        y = self.branch(x)  # (N, C', H/s, W/s)
        if self.residual:
            if branch_scale is not None:
                y = y * branch_scale
            y = y + x
        return y


class MBConv(Residual):
    """Inverted residual: expand 1x1, depthwise, squeeze-excite, project 1x1."""

    def __init__(self, block: Block, *, settings: LayerSettings) -> None:
        super().__init__(block)
        hidden = block.hidden_channels
        self.expands = block.expands
        self.gated = block.squeeze_channels > 0
        if block.expands:
            self.expand = ConvNormAct(block.in_channels, hidden, 1, settings=settings)
            self.fused = fused_expansion(settings, kernel=block.kernel, stride=block.stride)
        self.depthwise = ConvNormAct(
            hidden, hidden, block.kernel, stride=block.stride, groups=hidden, settings=settings
        )
        if self.gated:
            self.se = SqueezeExcite(
                hidden, block.squeeze_channels, library=settings.library, layout=settings.layout
            )
        self.project = ConvNormAct(hidden, block.out_channels, 1, activate=False, settings=settings)

    def branch(self, x: Tensor) -> Tensor:
        x = self.expanded(x) if self.expands else self.depthwise(x)  # (N, hidden, H/s, W/s)
        if self.gated:
            x = self.se(x)
        return self.project(x)

    def expanded(self, x: Tensor) -> Tensor:
        """The depthwise layer's output by way of the expansion's, (N, hidden, H, W)."""
        if self.fused is None or not self.training:
            return self.depthwise(self.expand(x))
        y, first, second = self.fused(x, self.expand.values(), self.depthwise.values())
        self.expand.keep(first[0], first[1])
        self.depthwise.keep(second[0], second[1])
        return y


class FusedMBConv(Residual):
    """Inverted residual with one full convolution in place of expansion and depthwise convolution.

    Without expansion that convolution is all there is. Source: "EfficientNetV2" (arXiv 2104.00298),
    section 3.2, with the released code's shapes.
    """

    def __init__(self, block: Block, *, settings: LayerSettings) -> None:
        super().__init__(block)
        self.expands = block.expands
        hidden = block.hidden_channels if block.expands else block.out_channels
        self.fused = ConvNormAct(
            block.in_channels, hidden, block.kernel, stride=block.stride, settings=settings
        )
        if block.expands:
            self.project = ConvNormAct(
                hidden, block.out_channels, 1, activate=False, settings=settings
            )

    def branch(self, x: Tensor) -> Tensor:
        x = self.fused(x)  # (N, hidden, H/s, W/s)
        return self.project(x) if self.expands else x


_BLOCKS = {"mb": MBConv, "fused": FusedMBConv}


class EfficientNet(nn.Cell):
    """Stem, blocks, head and classifier of one variant."""

    def __init__(
        self, architecture: Architecture, *, num_classes: int, settings: LayerSettings
    ) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, architecture.stem_channels, 3, stride=2, settings=settings)
        self.blocks = nn.CellList(
            [_BLOCKS[block.op](block, settings=settings) for block in architecture.blocks]
        )
        last = architecture.blocks[-1].out_channels
        self.head = ConvNormAct(last, architecture.head_channels, 1, settings=settings)
        self.own_operators = settings.library is not None
        self.channels_last = settings.layout == "NHWC"
        self.pool = GlobalMean(settings.library, settings.layout)
        self.classifier = nn.Dense(architecture.head_channels, num_classes)

    def set_inputs(self, *inputs: Tensor, **named: Tensor) -> None:
        """As MindSpore's, which is how a graph with a free dimension is asked for.

        Raises:
            ValueError: this network has native kernels, whose shapes MindSpore asks for as numbers.
        """
        if self.own_operators:
            raise ValueError(
                "native CPU kernels need a fixed batch size; make the network without a library"
            )
        super().set_inputs(*inputs, **named)

    def features(self, x: Tensor, path_scale: Tensor | None = None) -> Tensor:
        """Pooled features, (N, head_channels), of images (N, 3, H, W)."""
        if self.channels_last:
            x = ops.transpose(x, TO_LAST)  # (N, H, W, 3), and so on below
        x = self.stem(x)  # (N, stem, H/2, W/2)
        for index, block in enumerate(self.blocks):
            x = block(x, None if path_scale is None else path_scale[index])
        x = self.head(x)  # (N, head, H/32, W/32)
        return self.pool(x)  # (N, head)

    def construct(
        self, x: Tensor, path_scale: Tensor | None = None, feature_scale: Tensor | None = None
    ) -> Tensor:
        """Logits of images.

        Args:
            x: (N, 3, H, W) float32, normalised.
            path_scale: (blocks, N, 1, 1, 1) factors of the residual branches, in training.
            feature_scale: (N, head_channels) factors of the classifier's inputs, in training.

        Returns:
            (N, num_classes) float32.
        """
        x = self.features(x, path_scale)
        if feature_scale is not None:
            x = x * feature_scale
        return self.classifier(x)


def initialise(network: EfficientNet, seed: int) -> None:
    """Draw all weights anew, the same for the same seed on every rank.

    Convolutions are normal with variance 2 / fan-out, the classifier is uniform within
    1 / sqrt(classes), biases are zero: the initialisation of the released TensorFlow code.
    """
    rng = np.random.default_rng([seed, 0])
    for parameter in network.trainable_params():
        shape, name = parameter.shape, parameter.name
        if len(shape) == 4:
            groups = shape[0] if shape[1] == 1 else 1
            fan_out = shape[0] * shape[2] * shape[3] // groups
            value = rng.normal(0.0, math.sqrt(2.0 / fan_out), shape)
        elif name == "classifier.weight":
            bound = 1.0 / math.sqrt(shape[0])
            value = rng.uniform(-bound, bound, shape)
        elif name.endswith("norm.gamma"):
            value = np.ones(shape)
        else:
            value = np.zeros(shape)
        parameter.set_data(Tensor(value.astype(np.float32)))


def create_model(
    variant: str,
    *,
    num_classes: int,
    bn_momentum: float = 0.99,
    bn_eps: float = DEFAULT_BN_EPS,
    padding: Padding = DEFAULT_PADDING,
    seed: int = 0,
    library: Path | None = None,
    layout: Layout = "NCHW",
) -> EfficientNet:
    """A freshly initialised network of the family.

    Args:
        variant: a name of ``spec.VARIANTS``.
        num_classes: outputs of the classifier.
        bn_momentum: share of the old running statistics that an update keeps.
        bn_eps: added to the variance inside BatchNorm.
        padding: of convolutions; ``same`` is TensorFlow's, for weights that came from there.
        seed: of the initial weights.
        library: of native kernels (``kernels.library``); for export leave it out.
        layout: of what passes between the layers; images come as (N, 3, H, W) either way.

    Raises:
        ConfigError: no such variant.
    """
    row = variant_row(variant)
    architecture = expand(row)
    settings = LayerSettings(bn_momentum, bn_eps, padding, row.activation, library, layout)
    network = EfficientNet(architecture, num_classes=num_classes, settings=settings)
    initialise(network, seed)
    return network
