"""Random masks of dropout and stochastic depth, drawn outside the graph.

The network takes them as inputs instead of drawing them itself, because the state of a random layer
is not in a MindSpore checkpoint: here a mask is a pure function of (seed, step, rank), so a resumed
run draws what the straight run would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def mask_generator(seed: int, *, step: int, rank: int) -> np.random.Generator:
    """The random source of one step on one rank."""
    return np.random.default_rng([seed, step, rank])


def dropout_scale(rng: np.random.Generator, rate: float, shape: tuple[int, ...]) -> FloatArray:
    """Factors that drop each element with probability ``rate`` and keep the mean.

    Args:
        rate: probability of dropping, [0, 1).

    Returns:
        float32 of ``shape``: 0 where dropped, ``1 / (1 - rate)`` elsewhere.
    """
    keep = rng.random(shape) >= rate
    return (keep / (1.0 - rate)).astype(np.float32)


def drop_path_scale(
    rng: np.random.Generator, rates: Sequence[float], batch_size: int
) -> FloatArray:
    """Factors that drop whole residual branches, image by image.

    Args:
        rates: probability of dropping, one a block.

    Returns:
        float32, shape (blocks, batch_size, 1, 1, 1).

    Source: Huang et al., "Deep Networks with Stochastic Depth" (arXiv 1603.09382).
    """
    rows = [dropout_scale(rng, rate, (batch_size, 1, 1, 1)) for rate in rates]
    return np.stack(rows)
