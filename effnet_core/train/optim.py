"""Parameter groups and the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mindspore import Parameter, Tensor, nn
from mindspore import dtype as mstype

from effnet_core.config import OptimConfig


def decays(name: str) -> bool:
    """Whether weight decay applies: to kernels and matrices, not to norms and biases."""
    return name.endswith("weight")


def create_optimizer(parameters: Iterable[Parameter], cfg: OptimConfig) -> nn.Optimizer:
    """The optimizer of ``cfg``, with one learning rate that ``set_learning_rate`` changes.

    RMSProp is TensorFlow's, as the paper used it: the mean square starts at 1 and epsilon lies inside
    the root, unlike PyTorch's.
    """
    parameters = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if decays(p.name)], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if not decays(p.name)], "weight_decay": 0.0},
        {"order_params": parameters},
    ]
    rate = cfg.base_lr  # replaced before every step
    if cfg.name == "rmsprop":
        return nn.RMSProp(
            groups, learning_rate=rate, decay=cfg.decay, momentum=cfg.momentum, epsilon=cfg.epsilon
        )
    return nn.Momentum(groups, learning_rate=rate, momentum=cfg.momentum)


def set_learning_rate(optimizer: nn.Optimizer, rate: float) -> None:
    """Use ``rate`` for the next step.

    The rate is one scalar parameter, set from outside: a vector of all steps inside the optimizer
    would become part of every checkpoint and tie it to the length of the run.
    """
    optimizer.learning_rate.set_data(Tensor(rate, mstype.float32))
