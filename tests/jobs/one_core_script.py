"""A rank with one core: the same update, launched again and again; prints how many outcomes there were."""

from __future__ import annotations

import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

from effnet_core.jobs import environment  # noqa: E402 - MindSpore counts cores when it is imported

environment.prepare()

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import Parameter, Tensor, nn  # noqa: E402

from effnet_core.config.schema import OptimConfig, RuntimeConfig  # noqa: E402
from effnet_core.jobs.collective import join_group  # noqa: E402
from effnet_core.train.optim import create_optimizer  # noqa: E402

LAUNCHES = 20
"""More than MindSpore's kernels need to try how many pieces are fastest."""


class Loss(nn.Cell):
    """What a step ends with."""

    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss(logits, labels)


def main() -> None:
    join_group(RuntimeConfig())
    rng = np.random.default_rng(0)
    logits = Tensor(rng.standard_normal((4, 2)).astype(np.float32))
    labels, loss = Tensor(np.array([0, 1, 0, 1], np.int32)), Loss()
    losses = {loss(logits, labels).asnumpy().tobytes() for _ in range(LAUNCHES)}
    start, gradient = (rng.standard_normal(1003).astype(np.float32) for _ in range(2))
    weights = Parameter(Tensor(start), name="some.weight")
    optimizer = create_optimizer([weights], OptimConfig())
    first = {p.name: p.asnumpy().copy() for p in optimizer.get_parameters()}
    updated = set()
    for _ in range(LAUNCHES):
        for parameter in optimizer.get_parameters():
            parameter.set_data(Tensor(first[parameter.name].copy()))
        optimizer((Tensor(gradient),))
        updated.add(weights.asnumpy().tobytes())
    print("outcomes", len(losses), len(updated), ms.__version__)


if __name__ == "__main__":
    main()
