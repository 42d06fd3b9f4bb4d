"""One optimizer step, compiled as one graph."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn

from effnet_core.model.network import EfficientNet


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
        self.reduces = world_size > 1
        if self.reduces:
            self.reduce = nn.DistributedGradReducer(
                optimizer.parameters, mean=True, degree=world_size
            )
        self.loss_and_grads = ms.value_and_grad(self.forward, None, optimizer.parameters)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        path_scale: Tensor | None,
        feature_scale: Tensor | None,
    ) -> Tensor:
        return self.loss(self.network(images, path_scale, feature_scale), labels)

    def construct(
        self,
        images: Tensor,
        labels: Tensor,
        path_scale: Tensor | None = None,
        feature_scale: Tensor | None = None,
    ) -> Tensor:
        """This rank's mean loss before the update; all ranks apply the same update."""
        loss, grads = self.loss_and_grads(images, labels, path_scale, feature_scale)
        if self.reduces:
            grads = self.reduce(grads)
        self.optimizer(grads)
        return loss
