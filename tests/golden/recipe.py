"""Parameters and images drawn by name, the same in every process: so a fixture needs only the logits.

Needs numpy alone. Every statistic, gain and bias is drawn too, or else comparisons would pass vacuously.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def draw(name: str, shape: tuple[int, ...]) -> Array:
    """The value of a parameter, by its name in torch."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.array(7, dtype=np.int64)
    if last == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif last == "running_mean" or last == "bias":
        value = rng.normal(0, 0.1, shape)
    elif len(shape) == 1:
        value = rng.uniform(0.6, 1.0, shape)
    else:
        fan_in = int(np.prod(shape[1:]))
        value = rng.normal(0, np.sqrt(1.5 / fan_in), shape)
    return np.asarray(value, dtype=np.float32)


def draw_all(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """A whole state."""
    return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def images(count: int, size: int) -> Array:
    """Normalised images, (count, 3, size, size)."""
    rng = np.random.default_rng(size)
    return rng.standard_normal((count, 3, size, size)).astype(np.float32)


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Of names and shapes, in any order."""
    rows = sorted(f"{name} {tuple(int(n) for n in shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
