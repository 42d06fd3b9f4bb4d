"""Which pictures are worth a person's minute: near copies of each other are shown once."""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from effnet_core.errors import DataError
from effnet_core.infer.plan import SHARDS_NAME
from effnet_core.infer.sinks import OBSERVED_SUFFIX
from effnet_core.results.drift import Observed

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


def of_labelling(rows: Iterable[dict[str, Any]], records: Path, count: int) -> list[Candidate]:
    """The pictures of a labelling that a person should look at, most worth it first.

    Those whose two best classes are closest together, and in turns with them those that are farther from
    what the model learned from than 99 of 100 held-out pictures, farthest first. Without a reference of drift
    there are only the former.

    Args:
        rows: answers with ``path``, ``class_names`` and ``probs``, as ``parts.iter_rows`` gives them.
        records: folder with the run's record, in which what was observed lies.
        count: pictures of each kind at most.
    """
    outside = _farthest(records, count)
    unsure, far = _Best(count), _Best(count)
    for number, row in enumerate(rows):
        probs = [float(share) for share in row["probs"]]
        best = tuple(zip(row["class_names"], probs, strict=True))
        one = Candidate(row["path"], best[0][0], best, "uncertain", is_labelled=False)
        unsure.add((probs[1] if len(probs) > 1 else 0.0) - probs[0], number, one)
        if one.path in outside:
            far.add(outside[one.path], number, replace(one, reason="far"))
    chosen: dict[str, Candidate] = {}
    for pair in itertools.zip_longest(unsure.sorted(), far.sorted()):
        for candidate in pair:
            if candidate is not None:
                chosen.setdefault(candidate.path, candidate)
    return list(chosen.values())


class _Best:
    """The few candidates with the highest values; the earlier one of equals."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._heap: list[tuple[float, int, Candidate]] = []

    def add(self, value: float, number: int, one: Candidate) -> None:
        item = (value, -number, one)
        if len(self._heap) < self.most:
            heapq.heappush(self._heap, item)
        elif item[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, item)

    def sorted(self) -> list[Candidate]:
        """Highest first."""
        return [one for *_, one in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


def _farthest(run: Path, count: int) -> dict[str, float]:
    """The pictures of a labelling that are far out, and how far; none where that was not measured."""
    found: list[tuple[float, str]] = []
    for path in sorted((run / SHARDS_NAME).glob(f"*{OBSERVED_SUFFIX}")):
        try:
            far = ((outside, name) for name, outside in Observed.read(path).farthest if outside > 1)
            found = heapq.nlargest(count, itertools.chain(found, far))
        except DataError:  # it was labelled before this was kept
            continue
    return {name: outside for outside, name in found}


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
