"""Building blocks of the network, and the only home of MindSpore's layer quirks.

Handled here once: ``Conv2d`` pads "same" unless told otherwise; BatchNorm's ``momentum`` is the share
of the old value (0.99 here is 0.01 in PyTorch); ``x += y`` and adaptive pooling cannot be exported.

Each layer computes with MindSpore's built-in kernels or with this project's own (``kernels/``); its
parameters are the same, so checkpoints fit both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mindspore as ms
from mindspore import Tensor, nn, ops

from effnet_core.family.variants import DEFAULT_BN_EPS, DEFAULT_PADDING, Padding
from effnet_core.kernels.operators import (
    KERNELS,
    FusedExpansion,
    FusedNormAct,
    Kind,
    global_mean,
    squeeze_excite,
)

Activation = Literal["silu", "relu6", "none"]
Layout = Literal["NCHW", "NHWC"]
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Axes of a transposition from NCHW to NHWC, and back."""


@dataclass(frozen=True)
class LayerSettings:
    """What all layers of a network have in common."""

    momentum: float = 0.99
    """Share of the old running statistics that a step keeps."""
    eps: float = DEFAULT_BN_EPS
    """Added to the variance."""
    padding: Padding = DEFAULT_PADDING
    """``symmetric``: (kernel - 1) // 2 on each side. ``same``: TensorFlow's, which depends on the input:
    as much as makes the output ceil(input / stride) wide, the odd pixel right and below."""
    activation: Activation = "silu"
    library: Path | None = None
    """The library of native kernels; None takes the built-in ones."""
    layout: Layout = "NCHW"
    """Of inputs and outputs. Only GPUs have kernels for NHWC; elsewhere each layer turns them around."""


def activation(name: Activation) -> nn.Cell:
    """A layer without parameters."""
    cells = {"silu": nn.SiLU, "relu6": nn.ReLU6, "none": nn.Identity}
    return cells[name]()


class ChannelsLastConv(nn.Conv2d):
    """A convolution of (N, H, W, C) on a GPU, whose weight is stored as the usual one's: (O, I, k, k)."""

    def construct(self, x: Tensor) -> Tensor:
        return self.channels_last(x, ops.transpose(self.weight, TO_LAST))

    def prepare(self) -> ChannelsLastConv:
        """Make the operator, which MindSpore refuses on other devices."""
        self.channels_last = ops.Conv2D(
            out_channel=self.out_channels,
            kernel_size=self.kernel_size,
            pad_mode=self.pad_mode,
            pad=self.padding,
            stride=self.stride,
            dilation=self.dilation,
            group=self.group,
            data_format="NHWC",
        )
        return self


class ConvNormAct(nn.Cell):
    """Convolution without bias, BatchNorm, and the activation unless ``activate`` is false.

    Either padding keeps the size at stride 1 and halves it, rounded up, at stride 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        settings: LayerSettings,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        same = settings.padding == "same"
        native = settings.layout == "NHWC" and ms.get_context("device_target") == "GPU"
        self.turns = settings.layout == "NHWC" and not native
        self.conv = (ChannelsLastConv if native else nn.Conv2d)(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            pad_mode="same" if same else "pad",
            padding=0 if same else (kernel - 1) // 2,
            group=groups,
            has_bias=False,
        )
        self.norm = nn.BatchNorm2d(
            out_channels,
            eps=settings.eps,
            momentum=settings.momentum,
            data_format="NHWC" if native else "NCHW",
        )
        if native:
            self.conv.prepare()
        name: Activation = settings.activation if activate else "none"
        self.act = activation(name)
        self.fused = None
        if settings.library is not None:
            depthwise = groups == in_channels == out_channels and kernel in KERNELS
            self.kind: Kind = "depthwise" if depthwise else "norm"
            if kernel == stride == groups == 1:
                self.kind = "pointwise"
            self.fused = FusedNormAct(
                settings.library,
                self.kind,
                eps=settings.eps,
                momentum=settings.momentum,
                activation=name,
                stride=stride,
                same_padding=same,
            )

    def construct(self, x: Tensor) -> Tensor:
        if self.turns:
            y = self.act(self.norm(self.conv(ops.transpose(x, TO_FIRST))))
            return ops.transpose(y, TO_LAST)
        if self.fused is None:
            return self.act(self.norm(self.conv(x)))
        values = self.values()
        after = self.kind == "norm"  # the convolution is a built-in one
        inputs = (self.conv(x), *values[1:]) if after else (x, *values)
        if not self.training:
            return self.fused.infer(*inputs)
        y, mean, variance = self.fused(*inputs)
        self.keep(mean, variance)
        return y

    def values(self) -> tuple[Tensor, ...]:
        """Weight, gamma, beta, running mean and running variance."""
        norm = self.norm
        return self.conv.weight, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance

    def keep(self, mean: Tensor, variance: Tensor) -> None:
        """Take over new running statistics."""
        ops.assign(self.norm.moving_mean, mean)
        ops.assign(self.norm.moving_variance, variance)


def fused_expansion(settings: LayerSettings, *, kernel: int, stride: int) -> FusedExpansion | None:
    """What trains an expansion and its depthwise layer as one, given the ``values`` of both, if anything."""
    if settings.library is None or kernel not in KERNELS:
        return None
    return FusedExpansion(
        settings.library,
        eps=settings.eps,
        momentum=settings.momentum,
        activation=settings.activation,
        stride=stride,
        same_padding=settings.padding == "same",
    )


class SqueezeExcite(nn.Cell):
    """Scale channels by a gate computed from their means (paper section 3, from SENet)."""

    def __init__(
        self,
        channels: int,
        squeeze_channels: int,
        *,
        library: Path | None = None,
        layout: Layout = "NCHW",
    ) -> None:
        super().__init__()
        self.channels_last = layout == "NHWC"
        self.reduce = nn.Conv2d(channels, squeeze_channels, 1, pad_mode="valid", has_bias=True)
        self.expand = nn.Conv2d(squeeze_channels, channels, 1, pad_mode="valid", has_bias=True)
        self.act = nn.SiLU()
        self.gate = nn.Sigmoid()
        self.fused = None if library is None else squeeze_excite(library)

    def construct(self, x: Tensor) -> Tensor:
        if self.fused is not None:
            reduce, expand = self.reduce, self.expand
            return self.fused(x, reduce.weight, reduce.bias, expand.weight, expand.bias)[0]
        if self.channels_last:
            squeezed = ops.transpose(x.mean((1, 2), keep_dims=True), TO_FIRST)  # (N, C, 1, 1)
            gate = self.gate(self.expand(self.act(self.reduce(squeezed))))
            return x * ops.transpose(gate, TO_LAST)
        squeezed = x.mean((2, 3), keep_dims=True)  # (N, C, 1, 1)
        return x * self.gate(self.expand(self.act(self.reduce(squeezed))))


class GlobalMean(nn.Cell):
    """The mean over an image's pixels: (N, C, H, W), or (N, H, W, C), to (N, C)."""

    def __init__(self, library: Path | None = None, layout: Layout = "NCHW") -> None:
        super().__init__()
        self.pixels = (1, 2) if layout == "NHWC" else (2, 3)
        self.fused = None if library is None else global_mean(library)

    def construct(self, x: Tensor) -> Tensor:
        return x.mean(self.pixels) if self.fused is None else self.fused(x)
