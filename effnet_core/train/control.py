"""What rank 0 tells all ranks with the gradients of a step, so that all act after the same step.

Rank 0 alone receives signals and looks at the clock. Its message travels as floats in the collective
that averages the gradients, beside the loss; the other ranks add zeros to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

CONTROL_SIZE = 2
"""Numbers in a control message."""


class Request(IntEnum):
    """What rank 0 asks of all ranks after a step."""

    NONE = 0
    SAVE = 1
    STOP = 2


@dataclass(frozen=True)
class Control:
    """The control message."""

    request: Request = Request.NONE
    spent_s: float = 0.0
    """Seconds since the run's first step, by the clock of rank 0."""

    def encode(self) -> Tensor:
        """The message as a step takes it, (CONTROL_SIZE,) float32."""
        return Tensor(np.array([self.request, self.spent_s], dtype=np.float32))

    @classmethod
    def decode(cls, mean: NDArray[np.float32], *, world_size: int) -> Control:
        """The message of rank 0, from the ``mean`` (CONTROL_SIZE,) over all ranks."""
        request, spent_s = (float(value) * world_size for value in mean)
        return cls(Request(round(request)), spent_s)
