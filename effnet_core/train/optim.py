"""Parameter groups and the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore import dtype as mstype

from effnet_core.config.schema import OptimConfig

_decay = ops.MultitypeFuncGraph("decay")


@_decay.register("Tensor", "Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _decay_tensor(weight_decay: Tensor, rate: Tensor, weight: Tensor) -> Any:
    return ops.depend(True, ops.assign(weight, weight * (1.0 - rate * weight_decay)))


class AdamW(nn.Adam):
    """Adam whose weight decay shrinks the weights themselves and does not enter the gradient.

    MindSpore's ``AdamWeightDecay`` leaves out the correction of the first steps' moments.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101).
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.shrink = Tensor(weight_decay, mstype.float32)
        pairs = list(zip(self.parameters, self._own_rates(), strict=True))
        self.decaying = ParameterTuple([p for p, _ in pairs if decays(p.name)])
        self.their_rates = ParameterTuple([rate for p, rate in pairs if decays(p.name)])
        self.map_all = ops.HyperMap()

    def _own_rates(self) -> list[Parameter]:
        shared = self.learning_rate
        return list(shared) if self.is_group_lr else [shared] * len(self.parameters)

    def construct(self, gradients: tuple[Tensor, ...]) -> Any:
        """One update."""
        self.map_all(ops.partial(_decay, self.shrink), self.their_rates, self.decaying)
        return super().construct(gradients)


def decays(name: str) -> bool:
    """Whether weight decay applies: to kernels and matrices, not to norms and biases."""
    return name.endswith("weight")


def of_head(name: str) -> bool:
    """Whether a parameter is the classifier's, not the backbone's."""
    return name.startswith("classifier.")


def lr_scales(names: Iterable[str], cfg: OptimConfig) -> dict[str, float]:
    """What each parameter's learning rate is as a share of the classifier's.

    Each layer's is ``cfg.layer_decay`` of that of the layer above it: classifier, head, blocks from
    the last to the first, stem.
    """
    names = list(names)
    blocks = 1 + max([int(n.split(".")[1]) for n in names if n.startswith("blocks.")], default=-1)

    def scale(name: str) -> float:
        if of_head(name):
            return 1.0
        kind = name.partition(".")[0]
        above = blocks - int(name.split(".")[1]) + 1 if kind == "blocks" else 1
        above = blocks + 2 if kind == "stem" else above
        return float(cfg.backbone_lr_scale * cfg.layer_decay**above)

    return {name: scale(name) for name in names}


def create_optimizer(parameters: Iterable[Parameter], cfg: OptimConfig) -> nn.Optimizer:
    """The optimizer of ``cfg``, with learning rates that ``set_learning_rate`` changes.

    RMSProp is TensorFlow's, as the paper used it: the mean square starts at 1 and epsilon lies inside
    the root, unlike PyTorch's.
    """
    parameters = list(parameters)
    scales = lr_scales([p.name for p in parameters], cfg)
    rate = cfg.base_lr  # replaced before every step
    l2 = 0.0 if cfg.name == "adamw" else cfg.weight_decay
    groups: list[dict[str, Any]] = []
    for scale in dict.fromkeys(scales[p.name] for p in parameters):
        mine = [p for p in parameters if scales[p.name] == scale]
        groups += _groups(mine, l2, rate * scale if len(set(scales.values())) > 1 else None)
    groups.append({"order_params": parameters})
    if cfg.name == "rmsprop":
        return nn.RMSProp(
            groups, learning_rate=rate, decay=cfg.decay, momentum=cfg.momentum, epsilon=cfg.epsilon
        )
    if cfg.name == "adamw":
        return AdamW(
            groups,
            cfg.weight_decay,
            learning_rate=rate,
            beta1=cfg.momentum,
            beta2=cfg.beta2,
            eps=cfg.epsilon,
        )
    return nn.Momentum(groups, learning_rate=rate, momentum=cfg.momentum)


def _groups(
    parameters: list[Parameter], weight_decay: float, rate: float | None
) -> list[dict[str, Any]]:
    """Those that decay and those that do not, where there are any."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if decays(p.name)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not decays(p.name)], "weight_decay": 0.0},
    ]
    own = {} if rate is None else {"lr": rate}
    return [{**group, **own} for group in groups if group["params"]]


def set_learning_rate(
    optimizer: nn.Optimizer, rate: float, scales: Mapping[str, float] | None = None
) -> None:
    """Use ``rate`` for the next step, times the ``scales`` of ``lr_scales``.

    The rate is one scalar parameter, set from outside: a vector of all steps inside the optimizer
    would become part of every checkpoint and tie it to the length of the run.
    """
    if not optimizer.is_group_lr:
        only = next(iter(set(scales.values()))) if scales else 1.0
        optimizer.learning_rate.set_data(Tensor(rate * only, mstype.float32))
        return
    rates = {}  # one a group, shared by its parameters
    for parameter, shared in zip(optimizer.parameters, optimizer.learning_rate, strict=True):
        rates[shared.name] = shared, 1.0 if scales is None else scales[parameter.name]
    for shared, scale in rates.values():
        shared.set_data(Tensor(rate * scale, mstype.float32))
