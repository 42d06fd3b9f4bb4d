"""What splits are called, and which images validate where a data set has none.

Each image's own bytes decide, so that nothing ever changes sides. Only a class that would lie on one
side has an image put on the other, and what an earlier staging into the same folder decided stays.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from effnet_core.errors import DataError
from effnet_core.system.files import sha256_of_text

TRAIN, VAL, TEST = "train", "val", "test"
SPLITS = {
    **dict.fromkeys(("train", "training", "trainset", "trainval", "trn"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "valset", "dev", "eval"), VAL),
    **dict.fromkeys(("evaluation",), VAL),
    **dict.fromkeys(("test", "testing", "testset", "tst", "holdout"), TEST),
}
"""What splits are called, and what they are called here."""

_WORDS = re.compile(r"[a-z]+")
_HUMPS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_in(name: str) -> str:
    """The split that a name holds as a word, such as ``imagenet1k-validation-00``; empty for none.

    Raises:
        DataError: it holds two.
    """
    words = _WORDS.findall(_HUMPS.sub(" ", name).lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    if len(found) > 1:
        raise DataError(
            f"{name!r} names more than one split ({', '.join(sorted(found))}); rename it so that it "
            "names one"
        )
    return next(iter(found), "")


def is_split(name: str) -> bool:
    """Whether a name is a split's and nothing else's, but for digits: ``Training``, ``val2017``."""
    return re.sub(r"[\W\d_]+", "", name).lower() in SPLITS


def split_of(sha256: str, val_share: float, seed: int) -> str:
    """``val`` for about ``val_share`` of the images of each class, ``train`` for the others.

    The image's digest and the seed alone decide. Adding, removing, renaming or relabelling images moves no
    other to the other side, two copies of one image are on the same side, and every class gives the same
    share, up to chance: with 100 images and a share of 0.2, 12 to 28 in 95 % of the cases.
    """
    return VAL if _position(sha256, seed) < val_share else TRAIN


@dataclass(frozen=True)
class Sides:
    """The rule of one staging."""

    val_share: float
    seed: int
    before: Mapping[str, str] = field(default_factory=dict)
    """Split of each digest in the data set that is staged anew."""

    def of(self, sha256: str) -> str:
        """The side of an image, before its class is looked at."""
        return self.before.get(sha256) or split_of(sha256, self.val_share, self.seed)

    def stratified(self, images: Iterable[tuple[str, str, str]]) -> dict[str, str]:
        """Digests that change sides so that every class with two images or more is on both.

        Args:
            images: class, digest and side of each image.

        Returns:
            The new side of each digest that has one.
        """
        classes: dict[str, set[str]] = defaultdict(set)
        sides: dict[str, str] = {}
        for name, digest, side in images:
            classes[name].add(digest)
            sides[digest] = side
        if not 0 < self.val_share < 1:
            return {}
        start = dict(sides)
        for name in sorted(classes):
            digests = sorted(classes[name], key=lambda digest: _position(digest, self.seed))
            there = {sides[digest] for digest in digests}
            if len(digests) == 1:
                sides[digests[0]] = TRAIN
            elif VAL not in there:
                sides[self._newest(digests)] = VAL
            elif TRAIN not in there:
                sides[self._newest(digests[::-1])] = TRAIN
        return {digest: side for digest, side in sides.items() if start[digest] != side}

    def _newest(self, digests: list[str]) -> str:
        """The first that no earlier staging has decided, else the first."""
        return next((digest for digest in digests if digest not in self.before), digests[0])


def _position(sha256: str, seed: int) -> float:
    return int(sha256_of_text(str(seed), sha256)[:12], 16) / 16**12
