"""Pictures that are copies for the eye: saved anew, resized or brightened, so that their bytes differ.

A difference hash: whether each cell of a small grey picture is clearly brighter than its neighbour. It is
what ``imagehash.dhash`` computes at 16 cells a side, with a threshold against a JPEG's noise; that
library would bring another wavelet package for one function (docs/adr/0005).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
CLEARLY = 3
"""Grey levels of 256 between neighbours that are more than a JPEG's noise."""
BITS = SIDE * SIDE
MAX_DISTANCE = 16
"""Bits of 256 in which copies differ at most."""
MIN_BITS, MAX_BITS = 12, BITS - 12
"""Plainer pictures all look the same to the hash."""
MAX_SHARED = 50
"""Pictures with one part of the hash in common; more of them have it by chance."""
SAME_LEVELS = 8.0
"""Mean difference of the small grey pictures of copies."""
PROBE_SIZE = (SIDE + 1, SIDE)
PROBE_PX = 4 * SIDE
"""Shorter side of an image that a probe is made of, at least: four pixels of each cell."""

Hash = NDArray[np.uint32]


def grey_of(probe: Image.Image) -> bytes:
    """The levels of a small grey picture, row by row.

    Args:
        probe: the picture at ``PROBE_SIZE``, RGB or grey.
    """
    return (probe if probe.mode == "L" else probe.convert("L")).tobytes()


def fingerprints(greys: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The hashes of pictures, 32 bytes each.

    Args:
        greys: one row of ``grey_of`` a picture.
    """
    cells = greys.reshape(-1, SIDE, SIDE + 1)
    darker = np.minimum(cells[:, :, :-1], 255 - CLEARLY) + np.uint8(CLEARLY)
    return np.packbits((cells[:, :, 1:] > darker).reshape(-1, BITS), axis=1)


def near_pairs(
    hashes: NDArray[np.uint8], is_train: NDArray[np.bool_], digests: Sequence[str]
) -> list[tuple[int, int]]:
    """Positions of a training picture and of one of another split that look alike.

    Args:
        hashes: of ``fingerprints``.
        is_train: of each picture.
        digests: of their bytes; equal ones are exact copies and no matter of this.
    """
    if not len(hashes) or is_train.all() or not is_train.any():
        return []
    table = np.ascontiguousarray(hashes).view(np.uint32)
    bits = np.unpackbits(hashes, axis=1).sum(axis=1)
    telling = (bits >= MIN_BITS) & (bits <= MAX_BITS)
    train, other = np.flatnonzero(is_train & telling), np.flatnonzero(~is_train & telling)
    pairs: set[tuple[int, int]] = set()
    for part in range(table.shape[1]):
        left, right = _equal(table[train, part], table[other, part])
        first, second = train[left], other[right]
        differing = np.unpackbits((table[first] ^ table[second]).view(np.uint8), axis=1)
        close = differing.sum(axis=1) <= MAX_DISTANCE
        pairs.update(zip(first[close].tolist(), second[close].tolist(), strict=True))
    return sorted((a, b) for a, b in pairs if digests[a] != digests[b])


def confirmed(greys: NDArray[np.uint8], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those pairs that also look alike in grey.

    Args:
        greys: one row of ``grey_of`` a picture.
        pairs: of ``near_pairs``.
    """
    return [
        (one, other)
        for one, other in pairs
        if np.abs(greys[one].astype(np.int16) - greys[other]).mean() <= SAME_LEVELS
    ]


def _equal(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> tuple[NDArray[np.intp], ...]:
    """Positions of equal values in both, but for values that many share."""
    order = np.argsort(first, kind="stable")
    low = np.searchsorted(first[order], second, "left")
    count = np.searchsorted(first[order], second, "right") - low
    count[(count > MAX_SHARED) | (second == 0)] = 0
    right = np.repeat(np.arange(len(second)), count)
    starts = np.repeat(low - np.concatenate(([0], np.cumsum(count)[:-1])), count)
    return order[starts + np.arange(len(right))], right
