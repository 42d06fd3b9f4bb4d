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


def of_head(name: str) -> bool:
    """Whether a parameter is the classifier's, not the backbone's."""
    return name.startswith("classifier.")


def create_optimizer(parameters: Iterable[Parameter], cfg: OptimConfig) -> nn.Optimizer:
    """The optimizer of ``cfg``, with learning rates that ``set_learning_rate`` changes.

    RMSProp is TensorFlow's, as the paper used it: the mean square starts at 1 and epsilon lies inside
    the root, unlike PyTorch's.
    """
    parameters = list(parameters)
    rate = cfg.base_lr  # replaced before every step
    groups: list[dict[str, Any]] = [
        *_groups([p for p in parameters if of_head(p.name)], cfg),
        *_groups([p for p in parameters if not of_head(p.name)], cfg),
        {"order_params": parameters},
    ]
    if cfg.backbone_lr_scale != 1:
        for group in groups[:-1]:
            head = of_head(group["params"][0].name)
            group["lr"] = rate if head else rate * cfg.backbone_lr_scale
    if cfg.name == "rmsprop":
        return nn.RMSProp(
            groups, learning_rate=rate, decay=cfg.decay, momentum=cfg.momentum, epsilon=cfg.epsilon
        )
    return nn.Momentum(groups, learning_rate=rate, momentum=cfg.momentum)


def _groups(parameters: list[Parameter], cfg: OptimConfig) -> list[dict[str, Any]]:
    """Those that decay and those that do not, where there are any."""
    groups = [
        {"params": [p for p in parameters if decays(p.name)], "weight_decay": cfg.weight_decay},
        {"params": [p for p in parameters if not decays(p.name)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: nn.Optimizer, rate: float, *, backbone_scale: float = 1.0) -> None:
    """Use ``rate`` for the next step, and ``rate * backbone_scale`` for the backbone.

    The rate is one scalar parameter, set from outside: a vector of all steps inside the optimizer
    would become part of every checkpoint and tie it to the length of the run.
    """
    if not optimizer.is_group_lr:
        optimizer.learning_rate.set_data(Tensor(rate, mstype.float32))
        return
    rates = {}  # one a group, shared by its parameters
    for parameter, shared in zip(optimizer.parameters, optimizer.learning_rate, strict=True):
        rates[shared.name] = shared, 1.0 if of_head(parameter.name) else backbone_scale
    for shared, scale in rates.values():
        shared.set_data(Tensor(rate * scale, mstype.float32))
