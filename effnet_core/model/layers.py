"""Building blocks of the network, and the only home of MindSpore's layer quirks.

Handled here once: ``Conv2d`` pads "same" unless told otherwise; BatchNorm's ``momentum`` is the share
of the old value (0.99 here is 0.01 in PyTorch); ``x += y`` and adaptive pooling cannot be exported.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindspore import Tensor, nn


@dataclass(frozen=True)
class Norm:
    """Settings of every BatchNorm in a network."""

    momentum: float = 0.99
    """Share of the old running statistics that a step keeps."""
    eps: float = 1e-3
    """Added to the variance."""


class ConvNormAct(nn.Cell):
    """Convolution without bias, BatchNorm, and SiLU unless ``activate`` is false.

    Pads symmetrically by ``(kernel - 1) // 2``, so stride 1 keeps the size and stride 2 halves it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        norm: Norm,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            pad_mode="pad",
            padding=(kernel - 1) // 2,
            group=groups,
            has_bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=norm.eps, momentum=norm.momentum)
        self.act = nn.SiLU() if activate else nn.Identity()

    def construct(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class SqueezeExcite(nn.Cell):
    """Scale channels by a gate computed from their means (paper section 3, from SENet)."""

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze_channels, 1, pad_mode="valid", has_bias=True)
        self.expand = nn.Conv2d(squeeze_channels, channels, 1, pad_mode="valid", has_bias=True)
        self.act = nn.SiLU()
        self.gate = nn.Sigmoid()

    def construct(self, x: Tensor) -> Tensor:
        squeezed = x.mean((2, 3), keep_dims=True)  # (N, C, 1, 1)
        return x * self.gate(self.expand(self.act(self.reduce(squeezed))))
