"""What splits are called, and whether the folders of a data set are splits or classes."""

from __future__ import annotations

import re

from effnet_core.errors import DataError

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
