"""Which pictures are worth a person's minute: near copies of each other are shown once."""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnet_core.data.images import ImageProblem, decode_image, to_rgb
from effnet_core.data.near_copies import MAX_DISTANCE, PROBE_SIZE, SAME_LEVELS, fingerprint
from effnet_core.errors import DataError
from effnet_core.infer.output import iter_part, part_files
from effnet_core.infer.plan import SHARDS_NAME
from effnet_core.infer.shards import OBSERVED_SUFFIX
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
        bits = np.unpackbits(np.frombuffer(fingerprint(probe), np.uint8))
        grey = image.convert("L").resize(SMALL, Image.Resampling.BOX)
        return cls(bits, np.asarray(grey, np.float32))

    def is_copy_of(self, other: Look) -> bool:
        """Whether the other one shows the same."""
        if int((self.bits != other.bits).sum()) > MAX_DISTANCE:
            return False
        return float(np.abs(self.grey - other.grey).mean()) <= SAME_LEVELS


def of_labelling(run: Path, count: int) -> list[Candidate]:
    """The pictures of a labelling that a person should look at, most worth it first.

    Those whose two best classes are closest together, and in turns with them those that are farther from
    what the model learned from than 99 of 100 held-out pictures, farthest first. Without a reference of drift
    there are only the former.

    Args:
        run: output of a labelling.
        count: pictures of each kind at most.
    """
    unsure, far = _Best(count), _Best(count)
    number = 0
    for part in part_files(run):
        outside = _distances(run, part)
        for place, row in enumerate(iter_part(part, ("path", "class_names", "probs"))):
            number += 1
            probs = [float(share) for share in row["probs"]]
            best = tuple(zip(row["class_names"], probs, strict=True))
            one = Candidate(row["path"], best[0][0], best, "uncertain", is_labelled=False)
            unsure.add((probs[1] if len(probs) > 1 else 0.0) - probs[0], number, one)
            if place < len(outside) and outside[place] > 1:
                far.add(float(outside[place]), number, replace(one, reason="far"))
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


def _distances(run: Path, part: Path) -> NDArray[np.float32]:
    """How far out the pictures of a part are, in its order; none where that was not measured."""
    path = run / SHARDS_NAME / f"{part.name}{OBSERVED_SUFFIX}"
    try:
        return Observed.read(path).outside if path.is_file() else np.zeros(0, np.float32)
    except DataError:
        return np.zeros(0, np.float32)


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
