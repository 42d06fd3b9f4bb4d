"""The names of ImageNet's 1000 classes (ILSVRC 2012): index -> WordNet id -> readable name.

The table is ``imagenet.tsv``: one line a class, in the order of every published ImageNet head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("imagenet.tsv")


@cache
def rows() -> tuple[tuple[str, str], ...]:
    """WordNet id and readable name of each class, by index; names are unique."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple((wordnet_id, lemmas.split(", ")[0]) for wordnet_id, lemmas in pairs)


def wordnet_ids() -> tuple[str, ...]:
    """WordNet ids by class index, which are also the names of the data set's folders."""
    return tuple(wordnet_id for wordnet_id, _ in rows())


def readable(class_names: Sequence[str]) -> tuple[str, ...]:
    """Names for people.

    WordNet ids of ImageNet become their words, so that a model that was trained or is evaluated on
    folders named ``n01440764`` answers ``tench``; so do 1000 classes that have only their numbers.
    Other names stay as they are.
    """
    names = tuple(class_names)
    table = rows()
    if names == tuple(str(index) for index in range(len(table))):
        return tuple(name for _, name in table)
    words = dict(table)
    return tuple(words[name] for name in names) if all(name in words for name in names) else names
