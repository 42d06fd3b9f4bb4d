"""Pictures whose own names begin with their class: ``cat.0.jpg``, ``Abyssinian_12.jpg``."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.tree import Tree
from effnet_core.data.splits import is_split, split_in
from effnet_core.errors import DataError

SHOWN = 5
"""Classes that a sentence names."""


def class_in(path: str) -> str:
    """A picture's name without the number at its end; empty where it has no number, or nothing else."""
    stem = path.rpartition("/")[2].rpartition(".")[0]
    found = re.fullmatch(r"(.*?)[\W_]*\d+[\W_]*", unicodedata.normalize("NFC", stem))
    return found[1] if found else ""


def way_out(pictures: list[str]) -> str:
    """The end of a sentence that refuses a folder whose files seem to be called by their class."""
    found = Counter(filter(None, map(class_in, pictures)))
    usual = {name: n for name, n in found.items() if n > 1}
    if len(usual) < 2 or 2 * sum(usual.values()) < len(pictures):
        return ""
    example = next(path for path in pictures if class_in(path) in usual).rpartition("/")[2]
    names = ", ".join(f"{name} {usual[name]:,}" for name in sorted(usual)[:SHOWN])
    more = f" and {len(usual) - SHOWN:,} more" if len(usual) > SHOWN else ""
    return (
        f"; if names such as {example} begin with the class, say data.layout=names ({names}{more})"
    )


def by_names(tree: Tree) -> list[Candidate]:
    """Every picture by the beginning of its name, of the split that a folder around it is called.

    Raises:
        DataError: no name begins with a class.
    """
    found = []
    for path in tree.pictures:
        if name := class_in(path):
            folders = path.split("/")[:-1]
            split = next((split_in(folder) for folder in folders if is_split(folder)), "")
            found.append(Candidate(tree.root / path, split, name, path))
    if not found:
        raise DataError(
            f"data.layout=names, but the name of no picture of {tree.root} begins with a class and ends "
            "with a number, as in cat.0.jpg"
        )
    return found
