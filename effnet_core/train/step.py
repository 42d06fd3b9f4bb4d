"""One optimizer step, compiled as one graph."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

from effnet_core.kernels.operators import mean_over_ranks
from effnet_core.model.network import EfficientNet
from effnet_core.train.control import CONTROL_SIZE
from effnet_core.train.precision import LossScale

MESSAGE_SIZE = 1 + CONTROL_SIZE
"""Numbers that travel with the gradients: the loss and the control message."""

_flatten = ops.MultitypeFuncGraph("flatten")
_reshape_like = ops.MultitypeFuncGraph("reshape_like")
_scale = ops.MultitypeFuncGraph("scale")
_collect = ops.MultitypeFuncGraph("collect")
_total = ops.MultitypeFuncGraph("total")
_clear = ops.MultitypeFuncGraph("clear")
_follow = ops.MultitypeFuncGraph("follow")


@_flatten.register("Tensor")  # type: ignore[untyped-decorator]
def _flatten_tensor(grad: Tensor) -> Tensor:
    return ops.reshape(grad, (-1,))


@_reshape_like.register("Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _reshape_tensor(piece: Tensor, like: Tensor) -> Tensor:
    return ops.reshape(piece, ops.shape(like))


@_scale.register("Number", "Tensor")  # type: ignore[untyped-decorator]
def _scale_tensor(factor: float, grad: Tensor) -> Tensor:
    return grad * factor


@_collect.register("Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _collect_tensor(total: Tensor, grad: Tensor) -> Any:
    return ops.depend(True, ops.assign_add(total, grad))


@_total.register("Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _total_tensor(total: Tensor, grad: Tensor) -> Tensor:
    return total + grad


@_clear.register("Tensor")  # type: ignore[untyped-decorator]
def _clear_tensor(total: Tensor) -> Any:
    return ops.depend(True, ops.assign(total, ops.zeros_like(total)))


@_follow.register("Tensor", "Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _follow_tensor(keep: Tensor, average: Tensor, value: Tensor) -> Any:
    return ops.depend(True, ops.assign(average, average * keep + value * (1.0 - keep)))


class MeanOverRanks(nn.Cell):
    """The mean of all ranks' gradients, by one collective over one long vector.

    MindSpore's own reducer calls a collective for each of B0's 213 gradients; on small images that
    costs more than the arithmetic of the step (docs/performance.md). On one machine memory that ranks
    share is faster still.
    """

    def __init__(
        self, parameters: list[Parameter], *, world_size: int, shared_by: Path | None = None
    ) -> None:
        """Args are as for ``StepOptions``."""
        super().__init__(auto_prefix=False)
        self.sizes = (*(math.prod(parameter.shape) for parameter in parameters), MESSAGE_SIZE)
        self.scale = 1.0 / world_size
        self.shares = shared_by is not None
        self.collective = mean_over_ranks(shared_by) if shared_by else ops.AllReduce()
        self.concat = ops.Concat(0)
        self.split = SplitWithSize()
        self.map = ops.HyperMap()

    def construct(
        self, grads: tuple[Tensor, ...], message: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The means of all ranks' gradients, in the same order, and of ``message`` (MESSAGE_SIZE,)."""
        flat = self.concat((*self.map(_flatten, grads), message))  # (elements + MESSAGE_SIZE,)
        mean = self.collective(flat) if self.shares else self.collective(flat) * self.scale
        pieces = self.split(mean, self.sizes, 0)
        return self.map(_reshape_like, pieces[:-1], grads), pieces[-1]


class Ema(nn.Cell):
    """A moving average of weights and statistics, updated with every step."""

    def __init__(self, parameters: list[Parameter], decay: float) -> None:
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.values = ParameterTuple(parameters)
        copies = [
            Parameter(Tensor(p.asnumpy().copy()), name=f"ema.{p.name}", requires_grad=False)
            for p in parameters
        ]
        self.averages = ParameterTuple(copies)
        self.keep = Parameter(Tensor(decay, ms.float32), name="ema_keep", requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self) -> bool:
        """Move the averages towards the values."""
        self.map(ops.partial(_follow, self.keep), self.averages, self.values)
        return True

    def set_step(self, step: int) -> None:
        """Before the update after ``step``: early averages follow faster, as in TensorFlow's."""
        self.keep.set_data(Tensor(min(self.decay, (1 + step) / (10 + step)), ms.float32))

    def restart(self) -> None:
        """Take over the values as they are."""
        for average, value in zip(self.averages, self.values, strict=True):
            average.set_data(Tensor(value.asnumpy().copy()))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the averages, and its own values back at the end."""
        own = [value.asnumpy().copy() for value in self.values]
        for average, value in zip(self.averages, self.values, strict=True):
            value.set_data(Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for value, array in zip(self.values, own, strict=True):
                value.set_data(Tensor(array))


class Forward(nn.Cell):
    """Loss and gradients of one batch; the gradients are those of the scaled loss."""

    def __init__(
        self,
        network: EfficientNet,
        loss: nn.Cell,
        parameters: list[Parameter],
        loss_scale: LossScale | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.scales = loss_scale is not None
        if loss_scale is not None:
            self.loss_scale = loss_scale
        self.loss_and_grads = ms.value_and_grad(self.forward, None, ParameterTuple(parameters))

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        path_scale: Tensor | None,
        feature_scale: Tensor | None,
    ) -> Tensor:
        """Mean loss of one batch, times the scale."""
        loss = self.loss(self.network(images, path_scale, feature_scale), labels)
        return loss * self.loss_scale.factor if self.scales else loss

    def construct(
        self,
        images: Tensor,
        labels: Tensor,
        path_scale: Tensor | None = None,
        feature_scale: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss, and the gradient of each parameter, which still has the scale."""
        loss, grads = self.loss_and_grads(images, labels, path_scale, feature_scale)
        return loss / self.loss_scale.factor if self.scales else loss, grads


class Collect(nn.Cell):
    """Adds the gradients of a batch to a sum and leaves the weights alone."""

    def __init__(self, forward: Forward, sums: ParameterTuple) -> None:
        super().__init__(auto_prefix=False)
        self.forward_cell = forward
        self.sums = sums
        self.map = ops.HyperMap()

    def construct(
        self,
        images: Tensor,
        labels: Tensor,
        path_scale: Tensor | None = None,
        feature_scale: Tensor | None = None,
    ) -> Tensor:
        """The mean loss of the batch."""
        loss, grads = self.forward_cell(images, labels, path_scale, feature_scale)
        self.map(_collect, self.sums, grads)
        return loss


@dataclass(frozen=True)
class StepOptions:
    """What a training step does besides forward, backward and update."""

    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    """(num_classes,), or None for one each."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 leaves it alone."""
    accumulate_steps: int = 1
    """Batches whose gradients make one update."""
    world_size: int = 1
    shared_by: Path | None = None
    """The library of native kernels, where ranks average gradients through memory they share."""
    ema: Ema | None = None
    loss_scale: LossScale | None = None


class TrainStep(nn.Cell):
    """Forward, loss, gradients, their mean over ranks, update.

    ``auto_prefix=False`` keeps the parameters' own names, on which checkpoints rely.
    """

    def __init__(
        self, network: EfficientNet, optimizer: nn.Optimizer, options: StepOptions
    ) -> None:
        """Make a step for the parameters of ``optimizer``."""
        super().__init__(auto_prefix=False)
        parameters = list(optimizer.parameters)
        self.optimizer = optimizer
        loss = nn.CrossEntropyLoss(
            weight=options.class_weights, label_smoothing=options.label_smoothing
        )
        self.forward_cell = Forward(network, loss, parameters, options.loss_scale)
        self.scales = options.loss_scale is not None
        if options.loss_scale is not None:
            self.loss_scale = options.loss_scale
        self.map = ops.HyperMap()
        self.concat = ops.Concat(0)
        self.clip_norm = options.clip_norm
        self.accumulates = options.accumulate_steps > 1
        self.share = 1.0 / options.accumulate_steps
        if self.accumulates:
            self.sums = ParameterTuple([_sum_of(parameter) for parameter in parameters])
            self.collect = Collect(self.forward_cell, self.sums)
        self.reduces = options.world_size > 1
        if self.reduces:
            self.reduce = MeanOverRanks(
                parameters, world_size=options.world_size, shared_by=options.shared_by
            )
        self.averages = options.ema is not None
        if options.ema is not None:
            self.ema = options.ema

    def construct(
        self,
        images: Tensor,
        labels: Tensor,
        control: Tensor,
        path_scale: Tensor | None = None,
        feature_scale: Tensor | None = None,
    ) -> Tensor:
        """Update the weights, the same way on all ranks.

        Args:
            control: (CONTROL_SIZE,) float32; what rank 0 tells the other ranks (``train.control``).

        Returns:
            (MESSAGE_SIZE,) float32: means over all ranks of the batch's loss before the update and of
            ``control``.
        """
        loss, grads = self.forward_cell(images, labels, path_scale, feature_scale)
        if self.accumulates:
            grads = self.map(_total, self.sums, grads)
            grads = self.map(ops.partial(_scale, self.share), grads)
        message = self.concat((ops.reshape(loss, (1,)), control))
        if self.reduces:
            grads, message = self.reduce(grads, message)
        if self.scales:
            grads, finite = self.loss_scale(grads)
            if finite:  # else the step is left out, and the next one has a smaller scale
                self.change_weights(grads)
        else:
            self.change_weights(grads)
        if self.accumulates:
            self.map(_clear, self.sums)
        return message

    def change_weights(self, grads: tuple[Tensor, ...]) -> bool:
        """Clip the gradients, and let weights and averages follow them."""
        if self.clip_norm > 0.0:
            grads = ops.clip_by_global_norm(grads, self.clip_norm)
        self.optimizer(grads)
        if self.averages:
            self.ema()
        return True


def _sum_of(parameter: Parameter) -> Parameter:
    """Where the gradients of a parameter are added up."""
    zeros = ops.zeros(parameter.shape, parameter.dtype)
    return Parameter(zeros, name=f"sum.{parameter.name}", requires_grad=False)
