"""What rank 0 tells all ranks arrives as it was sent."""

from __future__ import annotations

import numpy as np
import pytest

from effnet_core.train.control import CONTROL_SIZE, Control, Request


@pytest.mark.parametrize("request_", list(Request))
@pytest.mark.parametrize("world_size", [1, 3, 7, 1000])
def test_the_mean_over_ranks_decodes_to_what_rank_0_encoded(
    request_: Request, world_size: int
) -> None:
    """The other ranks add zeros; the mean is taken in float32."""
    sent = Control(request_, 12345.5)
    messages = [sent] + [Control()] * (world_size - 1)
    rows = np.stack([message.encode().asnumpy() for message in messages])
    assert rows.shape == (world_size, CONTROL_SIZE)
    received = Control.decode(rows.sum(axis=0) * np.float32(1 / world_size), world_size=world_size)
    assert received.request is sent.request
    assert received.spent_s == pytest.approx(sent.spent_s, rel=1e-6)
