"""Mixed precision: which cells compute in 16 bits, and the scale of the loss that keeps gradients alive.

Weights, optimizer state, BatchNorm's statistics and the loss stay float32. MindSpore's own
``auto_mixed_precision`` puts cells around others, which renames parameters; a checkpoint relies on
their names. Its loss scalers cannot be called from inside a cell.
"""

from __future__ import annotations

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from effnet_core.config.schema import RunConfig
from effnet_core.model.network import EfficientNet

FIRST_SCALE = 65536.0
GOOD_STEPS = 2000
"""Updates in a row without an overflow after which a dynamic scale is doubled."""

DTYPES = {"fp16": ms.float16, "bf16": ms.bfloat16}

_times = ops.MultitypeFuncGraph("times")
_overflows = ops.MultitypeFuncGraph("overflows")


@_times.register("Tensor", "Tensor")  # type: ignore[untyped-decorator]
def _times_tensor(factor: Tensor, grad: Tensor) -> Tensor:
    return grad * factor


@_overflows.register("Tensor")  # type: ignore[untyped-decorator]
def _overflows_tensor(grad: Tensor) -> Tensor:
    return ops.reshape(1.0 - ops.isfinite(grad).all().astype(ms.float32), (1,))


def lower(network: EfficientNet, config: RunConfig) -> None:
    """Let the network compute as ``train.amp_level`` says; its parameters stay float32.

    O2 leaves BatchNorm in float32, O3 does not; with ``train.amp_norm=mixed`` it takes the images in 16
    bits as they come, and all of its own numbers stay float32. The classifier always computes in float32.
    """
    if config.train.amp_level == "O0":
        return
    network.to_float(DTYPES[config.amp_dtype])
    if config.train.amp_level == "O2":
        for _, cell in network.cells_and_names():
            if isinstance(cell, nn.BatchNorm2d):
                if config.train.amp_norm == "mixed":
                    cell.add_flags(fp16=False, bf16=False, fp32=False)
                else:
                    cell.to_float(ms.float32)
    network.classifier.to_float(ms.float32)


class LossScale(nn.Cell):
    """The factor of the loss, taken out of the gradients again before they are used.

    In 16 bits small gradients would become zero and large ones infinite. A dynamic factor is halved
    when a gradient is not a number, and doubled after ``GOOD_STEPS`` updates without one.
    """

    def __init__(self, first: float, *, dynamic: bool) -> None:
        super().__init__(auto_prefix=False)
        self.dynamic = dynamic
        self.factor = Parameter(
            Tensor(first, ms.float32), name="loss_scale.factor", requires_grad=False
        )
        self.good_steps = Parameter(
            Tensor(0, ms.int32), name="loss_scale.good_steps", requires_grad=False
        )
        self.map = ops.HyperMap()

    def construct(self, grads: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """The gradients without the factor, and whether all of them are numbers; () bool.

        All ranks must give the same gradients, so that they decide alike.
        """
        grads = self.map(ops.partial(_times, 1.0 / self.factor), grads)
        finite = ops.addn(self.map(_overflows, grads)).sum() == 0
        if self.dynamic:
            good = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
            grows = good >= GOOD_STEPS
            grown = ops.select(grows, self.factor * 2.0, self.factor)
            shrunk = ops.maximum(self.factor * 0.5, ops.ones_like(self.factor))
            ops.assign(self.factor, ops.select(finite, grown, shrunk))
            ops.assign(self.good_steps, ops.select(grows, ops.zeros_like(good), good))
        return grads, finite


def loss_scale(config: RunConfig) -> LossScale | None:
    """The scale of the loss, where the precision needs one: bf16 has the range of float32."""
    if config.train.amp_level == "O0" or config.amp_dtype == "bf16":
        return None
    given = config.train.loss_scale
    return LossScale(FIRST_SCALE if given == "dynamic" else given, dynamic=given == "dynamic")
