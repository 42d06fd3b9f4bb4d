"""Which pictures are worth a person's minute: near copies of each other are shown once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnet_core.data.images import ImageProblem, decode_image, to_rgb
from effnet_core.data.near_copies import (
    MAX_DISTANCE,
    PROBE_SIZE,
    SAME_LEVELS,
    fingerprints,
    grey_of,
)

SMALL = (16, 16)
REASONS = {
    "uncertain": "least certain",
    "label": "the model contradicts the label",
    "far": "unlike what the model learned from",
}


@dataclass(frozen=True)
class Candidate:
    """A picture that may be looked at."""

    path: str
    given: str
    """The label it has, or the model's answer where it has none."""
    suggestions: tuple[tuple[str, float], ...]
    """Classes that it could be and their probabilities, best first."""
    reason: str
    """A key of ``REASONS``."""
    is_labelled: bool


@dataclass(frozen=True, eq=False)
class Look:
    """What tells a picture from its near copies."""

    bits: NDArray[np.uint8]
    grey: NDArray[np.float32]

    @classmethod
    def of(cls, content: bytes) -> Look:
        """Of an encoded picture.

        Raises:
            ImageProblem: it cannot be decoded.
        """
        image = to_rgb(
            decode_image(content, at_least_px=2 * max(PROBE_SIZE), max_pixels=sys.maxsize)
        )
        probe = image.resize(PROBE_SIZE, Image.Resampling.BOX)
        bits = np.unpackbits(fingerprints(np.frombuffer(grey_of(probe), np.uint8))[0])
        grey = image.convert("L").resize(SMALL, Image.Resampling.BOX)
        return cls(bits, np.asarray(grey, np.float32))

    def is_copy_of(self, other: Look) -> bool:
        """Whether the other one shows the same."""
        if int((self.bits != other.bits).sum()) > MAX_DISTANCE:
            return False
        return float(np.abs(self.grey - other.grey).mean()) <= SAME_LEVELS


def without_copies(
    found: Iterable[tuple[Candidate, bytes]], most: int
) -> Iterator[tuple[Candidate, bytes]]:
    """The first ``most`` pictures that are no near copies of one before them.

    Pictures that cannot be read are left out.
    """
    looks: list[Look] = []
    for candidate, content in found:
        if len(looks) >= most:
            return
        try:
            look = Look.of(content)
        except ImageProblem:
            continue
        if any(look.is_copy_of(before) for before in looks):
            continue
        looks.append(look)
        yield candidate, content
