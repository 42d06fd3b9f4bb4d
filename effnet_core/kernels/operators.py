"""The operators of the library of ``build.py`` as MindSpore primitives. Import only in a child process.

MindSpore reads the functions below as source: shapes as Python, ``bprop`` as a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import operations as P

Shape = tuple[int, ...]
Kind = Literal["depthwise", "pointwise", "norm"]

_ACTIVATIONS = {"none": 0, "silu": 1, "relu6": 2}  # operator.h
KERNELS = (3, 5)
"""Sizes of depthwise convolutions that there are operators for."""


def _operator(
    library: Path,
    name: str,
    shape: Callable[..., Any],
    outputs: int,
    bprop: Callable[..., Any] | None = None,
) -> Any:
    def dtype(*inputs: Any) -> Any:
        return inputs[0] if outputs == 1 else (inputs[0],) * outputs

    return ops.Custom(f"{library}:effnet_{name}", shape, dtype, func_type="aot", bprop=bprop)


class FusedNormAct(nn.Cell):
    """Convolution, BatchNorm and activation as one operator; for ``norm``, the last two.

    It has no parameters of its own: they are arguments, so that their names stay those of the layers.
    """

    def __init__(
        self,
        library: Path,
        kind: Kind,
        *,
        eps: float,
        momentum: float,
        activation: str,
        stride: int = 1,
        same_padding: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        values = (eps, momentum, activation, stride, same_padding)
        self.batch_settings = _settings(*values, batch_statistics=True)
        self.fixed_settings = _settings(*values, batch_statistics=False)
        make = _norm if kind == "norm" else _convolution
        self.train_operator, self.infer_operator = make(library, kind, stride=stride, eps=eps)

    def construct(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output by the batch's statistics, and the new running mean and variance.

        Args:
            x: (N, C, H, W).
            parameters: weight (unless ``norm``), gamma, beta, running mean, running variance.
        """
        outputs = self.train_operator(x, *parameters, self.batch_settings)
        return outputs[0], outputs[-2], outputs[-1]

    def infer(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """The output by the running statistics; arguments as above."""
        return self.infer_operator(x, *parameters, self.fixed_settings)


class FusedExpansion(nn.Cell):
    """An expansion and the depthwise layer after it as one operator, for training; without parameters too."""

    def __init__(
        self,
        library: Path,
        *,
        eps: float,
        momentum: float,
        activation: str,
        stride: int,
        same_padding: bool,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.settings = _settings(
            eps, momentum, activation, stride, same_padding, batch_statistics=True
        )
        self.operator = _expanded(library, stride=stride)

    def construct(self, x: Tensor, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Any:
        """The output, and the new running mean and variance of either layer.

        Args:
            x: (N, C, H, W).
            first: weight, gamma, beta, running mean and running variance of the expansion.
            second: the same of the depthwise layer.
        """
        outputs = self.operator(x, *first, *second, self.settings)
        return outputs[0], (outputs[4], outputs[5]), (outputs[8], outputs[9])


def _settings(
    eps: float,
    momentum: float,
    activation: str,
    stride: int,
    same_padding: bool,
    *,
    batch_statistics: bool,
) -> Tensor:
    """What operator.h's ``Settings`` reads."""
    values = (eps, momentum, _ACTIVATIONS[activation], stride, same_padding, batch_statistics)
    return Tensor(np.array(values, np.float32))


def _convolution(library: Path, kind: Kind, *, stride: int, eps: float) -> tuple[Any, Any]:
    """The operators of a layer with a convolution, for training and for inference."""
    keeps_convolved = kind == "pointwise"

    def output(x: Shape, weight: Shape) -> Shape:
        return (x[0], weight[0], -(-x[2] // stride), -(-x[3] // stride))

    def train_shape(x: Any, weight: Any, gamma: Any, beta: Any, mean: Any, var: Any, s: Any) -> Any:
        out = output(x, weight)
        return (*((out,) * (2 if keeps_convolved else 1)), gamma, gamma, gamma, gamma)

    def infer_shape(x: Any, weight: Any, gamma: Any, beta: Any, mean: Any, var: Any, s: Any) -> Any:
        return output(x, weight)

    def backward_shape(x: Any, weight: Any, gamma: Any, beta: Any, *others: Any) -> Any:
        return x, weight, gamma, beta

    backward = _operator(library, f"{kind}_backward", backward_shape, 4)

    def depthwise_bprop(x, weight, gamma, beta, mean, var, s, out, dout):  # type: ignore[no-untyped-def]
        grads = backward(x, weight, gamma, beta, out[1], out[2], dout[0], s)
        zero = ops.zeros_like(gamma)
        return grads[0], grads[1], grads[2], grads[3], zero, zero, ops.zeros_like(s)

    def depthwise_infer_bprop(x, weight, gamma, beta, mean, var, s, out, dout):  # type: ignore[no-untyped-def]
        grads = backward(x, weight, gamma, beta, mean, ops.rsqrt(var + eps), dout, s)
        zero = ops.zeros_like(gamma)
        return grads[0], grads[1], grads[2], grads[3], zero, zero, ops.zeros_like(s)

    def pointwise_bprop(x, weight, gamma, beta, mean, var, s, out, dout):  # type: ignore[no-untyped-def]
        grads = backward(x, weight, gamma, beta, out[2], out[3], out[1], dout[0], s)
        zero = ops.zeros_like(gamma)
        return grads[0], grads[1], grads[2], grads[3], zero, zero, ops.zeros_like(s)

    def pointwise_infer_bprop(x, weight, gamma, beta, mean, var, s, out, dout):  # type: ignore[no-untyped-def]
        convolved = P.Conv2D(weight.shape[0], 1)(x, weight)
        rstd = ops.rsqrt(var + eps)
        grads = backward(x, weight, gamma, beta, mean, rstd, convolved, dout, s)
        zero = ops.zeros_like(gamma)
        return grads[0], grads[1], grads[2], grads[3], zero, zero, ops.zeros_like(s)

    train_bprop = pointwise_bprop if keeps_convolved else depthwise_bprop
    infer_bprop = pointwise_infer_bprop if keeps_convolved else depthwise_infer_bprop
    outputs = 6 if keeps_convolved else 5
    return (
        _operator(library, f"{kind}_train", train_shape, outputs, train_bprop),
        _operator(library, f"{kind}_infer", infer_shape, 1, infer_bprop),
    )


def _expanded(library: Path, *, stride: int) -> Any:
    """The operator of an expansion and a depthwise layer."""

    def train_shape(
        x: Any, w1: Any, g1: Any, b1: Any, m1: Any, v1: Any, w2: Any, *others: Any
    ) -> Any:
        inner = (x[0], w1[0], x[2], x[3])
        out = (x[0], w1[0], -(-x[2] // stride), -(-x[3] // stride))
        return out, inner, g1, g1, g1, g1, g1, g1, g1, g1

    def backward_shape(
        x: Any, w1: Any, g1: Any, b1: Any, w2: Any, g2: Any, b2: Any, *others: Any
    ) -> Any:
        return x, w1, g1, b1, w2, g2, b2, (x[0], w1[0], x[2], x[3])

    backward = _operator(library, "expanded_backward", backward_shape, 8)

    def bprop(x, w1, g1, b1, m1, v1, w2, g2, b2, m2, v2, s, out, dout):  # type: ignore[no-untyped-def]
        means = (out[2], out[3], out[6], out[7])
        grads = backward(x, w1, g1, b1, w2, g2, b2, *means, out[1], dout[0], s)
        zero = ops.zeros_like(g1)
        of_first = (grads[1], grads[2], grads[3], zero, zero)
        of_second = (grads[4], grads[5], grads[6], zero, zero)
        return (grads[0], *of_first, *of_second, ops.zeros_like(s))

    return _operator(library, "expanded_train", train_shape, 10, bprop)


def _norm(library: Path, kind: Kind, *, stride: int, eps: float) -> tuple[Any, Any]:
    """The operators of BatchNorm and activation alone, for training and for inference."""

    def train_shape(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, s: Any) -> Any:
        return x, gamma, gamma, gamma, gamma

    def infer_shape(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, s: Any) -> Any:
        return x

    def backward_shape(x: Any, gamma: Any, beta: Any, *others: Any) -> Any:
        return x, gamma, beta

    backward = _operator(library, "norm_backward", backward_shape, 3)

    def train_bprop(x, gamma, beta, mean, var, s, out, dout):  # type: ignore[no-untyped-def]
        grads = backward(x, gamma, beta, out[1], out[2], dout[0], s)
        zero = ops.zeros_like(gamma)
        return grads[0], grads[1], grads[2], zero, zero, ops.zeros_like(s)

    def infer_bprop(x, gamma, beta, mean, var, s, out, dout):  # type: ignore[no-untyped-def]
        grads = backward(x, gamma, beta, mean, ops.rsqrt(var + eps), dout, s)
        zero = ops.zeros_like(gamma)
        return grads[0], grads[1], grads[2], zero, zero, ops.zeros_like(s)

    return (
        _operator(library, "norm_train", train_shape, 5, train_bprop),
        _operator(library, "norm_infer", infer_shape, 1, infer_bprop),
    )


def squeeze_excite(library: Path) -> Any:
    """(x, reduce weight, reduce bias, expand weight, expand bias) -> the gated x, and what it needed."""

    def shape(x: Any, reduce: Any, reduce_bias: Any, expand: Any, expand_bias: Any) -> Any:
        return x, (x[0], x[1]), (x[0], reduce[0]), (x[0], x[1])

    def backward_shape(
        x: Any, reduce: Any, expand: Any, means: Any, hidden: Any, *others: Any
    ) -> Any:
        return x, reduce, (reduce[0],), expand, (expand[0],)

    backward = _operator(library, "squeeze_excite_backward", backward_shape, 5)

    def bprop(x, reduce, reduce_bias, expand, expand_bias, out, dout):  # type: ignore[no-untyped-def]
        return backward(x, reduce, expand, out[1], out[2], out[3], dout[0])

    return _operator(library, "squeeze_excite", shape, 4, bprop)


def global_mean(library: Path) -> Any:
    """(N, C, H, W) -> (N, C)."""

    def shape(x: Any) -> Any:
        return (x[0], x[1])

    def backward_shape(x: Any, grad: Any) -> Any:
        return x

    backward = _operator(library, "global_mean_backward", backward_shape, 1)

    def bprop(x, out, dout):  # type: ignore[no-untyped-def]
        return (backward(x, dout),)

    return _operator(library, "global_mean", shape, 1, bprop)


def mean_over_ranks(library: Path) -> Any:
    """(n,) -> its mean over the ranks that have joined (``sharing.py``), (n,)."""

    def shape(x: Any) -> Any:
        return x

    return _operator(library, "mean_over_ranks", shape, 1)
