"""What staging has seen in the images: sizes, modes, copies, and what validation shares with training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from effnet_core.data.splits import TRAIN

VERIFICATION_NAME = "verification.json"
EXAMPLES = 20
"""Groups of copies that are written out; the others are only counted."""


@dataclass(frozen=True)
class Copies:
    """Images of the same bytes."""

    groups: int
    images: int
    """In all of the groups together."""
    examples: list[list[str]]
    """Paths of the first groups."""


@dataclass(frozen=True)
class PathList:
    """Images that have something in common."""

    images: int
    examples: list[str]
    """Paths of the first ones."""


@dataclass(frozen=True)
class PairList:
    """Pairs of images that look alike."""

    pairs: int
    examples: list[list[str]]
    """Paths of the first ones."""


@dataclass(frozen=True)
class Verification:
    """Facts of a staged data set."""

    images: int
    total_bytes: int
    formats: dict[str, int]
    modes: dict[str, int]
    """Pillow's names: RGB, L, CMYK..."""
    width: dict[str, float]
    """Least, median and largest, px."""
    height: dict[str, float]
    duplicates: Copies
    """Copies inside one split."""
    leakage: Copies
    """Images that training and another split share: figures on them say nothing."""
    label_conflicts: Copies
    """Copies under more than one class: at least one label is wrong."""
    rejected: dict[str, int]
    """Files that were set aside, by reason."""
    classes_without_val: list[str]
    one_colour: PathList
    """Images that are of one colour after decoding."""
    near_leakage: PairList
    """Training pictures that another split has too, saved anew or resized."""
    notes: list[str]
    """What was chosen and left out, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def warnings(self) -> list[str]:
        """What a person should look into, one sentence each."""
        found = []
        if self.leakage.groups:
            found.append(
                f"{self.leakage.groups} image(s) are both in training and in another split (leakage), so its "
                f"figures look better than they are; the first: {' = '.join(self.leakage.examples[0])}"
            )
        if self.near_leakage.pairs:
            found.append(
                f"{self.near_leakage.pairs} picture(s) of another split look like one of training, saved "
                "anew or resized (near copies), so its figures look better than they are; the first: "
                f"{' ~ '.join(self.near_leakage.examples[0])}"
            )
        if self.label_conflicts.groups:
            found.append(
                f"{self.label_conflicts.groups} image(s) are under more than one class; the first: "
                f"{' = '.join(self.label_conflicts.examples[0])}"
            )
        if self.duplicates.groups:
            found.append(
                f"{self.duplicates.images} images are {self.duplicates.groups} images copied; the first: "
                f"{' = '.join(self.duplicates.examples[0])}"
            )
        if self.one_colour.images:
            found.append(
                f"{self.one_colour.images} image(s) are of one colour after decoding, so there is nothing to "
                f"learn from them; the first: {self.one_colour.examples[0]} (data.background is what "
                "transparent ones are laid on)"
            )
        if self.classes_without_val:
            names = ", ".join(self.classes_without_val[:10])
            found.append(
                f"{len(self.classes_without_val)} class(es) have no validation image: {names}; their quality "
                "is not measured"
            )
        return found


def verify_rows(
    rows: Sequence[dict[str, Any]],
    rejected: Iterable[dict[str, str]],
    class_names: Sequence[str],
    *,
    near: Sequence[list[str]] = (),
    notes: Sequence[str] = (),
) -> Verification:
    """The facts of staged images.

    Args:
        rows: of the manifest, and ``class_name``, ``mode`` and ``format`` besides.
        rejected: path and reason of each file that was set aside.
        class_names: in the order of their labels.
        near: paths of training pictures and of those of other splits that look like them.
        notes: what a person should know of the staging.
    """
    same: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        same[row["sha256"]].append(row)
    groups = [group for group in same.values() if len(group) > 1]
    splits = {row["split"] for row in rows}
    measured = {row["class_name"] for row in rows if row["split"] != TRAIN}
    return Verification(
        images=len(rows),
        total_bytes=sum(row["size_bytes"] for row in rows),
        formats=_counts(row["format"] for row in rows),
        modes=_counts(row["mode"] for row in rows),
        width=_range([row["width"] for row in rows]),
        height=_range([row["height"] for row in rows]),
        duplicates=_copies(
            [part for group in groups for part in _by_split(group) if len(part) > 1]
        ),
        leakage=_copies([g for g in groups if TRAIN in _splits(g) and len(_splits(g)) > 1]),
        label_conflicts=_copies([g for g in groups if len({r["class_name"] for r in g}) > 1]),
        rejected=_counts(row["reason"] for row in rejected),
        classes_without_val=[n for n in class_names if n not in measured]
        if len(splits) > 1
        else [],
        one_colour=_paths([row["path"] for row in rows if row["one_colour"]]),
        near_leakage=PairList(len({pair[1] for pair in near}), list(near[:EXAMPLES])),
        notes=list(notes),
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _range(values: list[int]) -> dict[str, float]:
    return {"least": min(values), "median": median(values), "largest": max(values)}


def _splits(group: list[dict[str, Any]]) -> set[str]:
    return {row["split"] for row in group}


def _by_split(group: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    return [[row for row in group if row["split"] == split] for split in sorted(_splits(group))]


def _paths(paths: list[str]) -> PathList:
    return PathList(len(paths), paths[:EXAMPLES])


def _copies(groups: list[list[dict[str, Any]]]) -> Copies:
    return Copies(
        groups=len(groups),
        images=sum(map(len, groups)),
        examples=[[row["path"] for row in group] for group in groups[:EXAMPLES]],
    )
