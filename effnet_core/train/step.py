"""One optimizer step, compiled as one graph."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

from effnet_core.model.network import EfficientNet

SHARED = 2
"""Numbers that travel with the gradients: the loss, and what rank 0 wants."""

_flatten = ops.MultitypeFuncGraph("flatten")
_reshape_like = ops.MultitypeFuncGraph("reshape_like")


@_flatten.register("Tensor")  # type: ignore[untyped-decorator]
def _flatten_tensor(grad: Tensor) -> Tensor:
    return ops.reshape(grad, (-1,))


@_reshape_like.register("Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _reshape_tensor(piece: Tensor, like: Tensor) -> Tensor:
    return ops.reshape(piece, ops.shape(like))


class MeanOverRanks(nn.Cell):
    """The mean of all ranks' gradients, by one collective over one long vector.

    MindSpore's own reducer calls a collective for each of B0's 213 gradients; on small images that
    costs more than the arithmetic of the step (docs/performance.md).
    """

    def __init__(self, parameters: list[Parameter], *, world_size: int) -> None:
        super().__init__(auto_prefix=False)
        self.sizes = (*(math.prod(parameter.shape) for parameter in parameters), SHARED)
        self.scale = 1.0 / world_size
        self.all_reduce = ops.AllReduce()
        self.concat = ops.Concat(0)
        self.split = SplitWithSize()
        self.map = ops.HyperMap()

    def construct(
        self, grads: tuple[Tensor, ...], shared: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The means of all ranks' gradients, in the same order, and of ``shared`` (SHARED,)."""
        flat = self.concat((*self.map(_flatten, grads), shared))  # (all elements + SHARED,)
        pieces = self.split(self.all_reduce(flat) * self.scale, self.sizes, 0)
        return self.map(_reshape_like, pieces[:-1], grads), pieces[-1]


class TrainStep(nn.Cell):
    """Forward, loss, gradients, their mean over ranks, update.

    ``auto_prefix=False`` keeps the parameters' own names, on which checkpoints rely.
    """

    def __init__(
        self,
        network: EfficientNet,
        optimizer: nn.Optimizer,
        *,
        label_smoothing: float,
        world_size: int,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.concat = ops.Concat(0)
        self.reduces = world_size > 1
        if self.reduces:
            self.reduce = MeanOverRanks(list(optimizer.parameters), world_size=world_size)
        self.loss_and_grads = ms.value_and_grad(self.forward, None, optimizer.parameters)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        path_scale: Tensor | None,
        feature_scale: Tensor | None,
    ) -> Tensor:
        """Mean loss of one batch."""
        return self.loss(self.network(images, path_scale, feature_scale), labels)

    def construct(
        self,
        images: Tensor,
        labels: Tensor,
        wish: Tensor,
        path_scale: Tensor | None = None,
        feature_scale: Tensor | None = None,
    ) -> Tensor:
        """Update the weights, the same way on all ranks.

        Args:
            wish: (1,) float32; a number by which rank 0 tells the other ranks something.

        Returns:
            (SHARED,) float32: means over all ranks of the loss before the update, and of ``wish``.
        """
        loss, grads = self.loss_and_grads(images, labels, path_scale, feature_scale)
        shared = self.concat((ops.reshape(loss, (1,)), wish))
        if self.reduces:
            grads, shared = self.reduce(grads, shared)
        self.optimizer(grads)
        return shared
