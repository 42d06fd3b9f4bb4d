"""Tables and lists that lie beside the pictures which they label, and which of them count."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.listed import (
    TableRules,
    columns_of_listing,
    from_table,
    split_in_or_none,
    usable_tables,
)
from effnet_core.data.sources.tables import Table
from effnet_core.data.sources.tree import Labelled, Rules, Tree
from effnet_core.data.splits import TEST, TRAIN, VAL, is_split
from effnet_core.errors import DataError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "_classes.csv")
"""Hugging Face's, and Roboflow's with a column for each class."""


def metadata_in(root: Path, folder: str, tables: list[str]) -> str:
    """Path of the table that Hugging Face or Roboflow put into a folder, if it names labels."""
    prefix = f"{folder}/" if folder else ""
    here = [f"{prefix}{name}" for name in METADATA_NAMES if f"{prefix}{name}" in tables]
    return next((path for path in here if usable_tables(root, [path], TableRules())), "")


def is_flat_beside_table(tree: Tree, top: str, tables: list[str], rules: Rules) -> bool:
    """Whether a table labels the pictures, and the folders that hold them are not classes.

    Folders are not classes where they are named like splits, where there is only one, or where people name a
    column of the table.
    """
    folders = tree.folders(top)
    flat = all(not tree.folders(path) for path in folders)
    names = [path.rpartition("/")[2] for path in folders]
    named = all(is_split(name) or name == "images" for name in names)
    said = bool(rules.table.label_column or rules.table.path_column)
    return (
        rules.layout != "classes"
        and flat
        and (named or said or len(folders) == 1)
        and bool(folders)
        and bool(_usable(tree, top, tables, rules))
    )


def splits_by_table(tree: Tree, top: str, tables: list[str], rules: Rules) -> bool:
    """Whether tables name a split each and label its pictures: ``train.txt``, ``val.txt``."""
    named = [path for path in _here(top, tables) if split_in_or_none(Path(path).stem)]
    several = rules.layout == "auto" and len(named) > 1
    return several and bool(_by_split(_usable(tree, top, tables, rules)))


def _by_split(tables: list[Table]) -> dict[str, Table]:
    """The tables that are called like splits, training among them; empty where that is not clear."""
    named = [(split_in_or_none(table.path.stem), table) for table in tables]
    found = {split: table for split, table in named if split}
    is_clear = len(found) == sum(bool(split) for split, _ in named)
    return found if TRAIN in found and len(found) > 1 and is_clear else {}


def _usable(tree: Tree, top: str, tables: list[str], rules: Rules) -> list[Table]:
    """The tables of a folder that label its pictures; read once."""
    if top not in tree.tables:
        here = _here(top, tables)
        tree.tables[top] = usable_tables(tree.root, here, rules.table, root=tree.root / top)
    return tree.tables[top]


def of_tables(
    tree: Tree, top: str, tables: list[str], result: Labelled, rules: Rules
) -> list[Candidate]:
    """The pictures that the tables beside them list.

    Raises:
        DataError: none of them lists pictures and labels, or several do and it is not clear which counts.
    """
    usable = _usable(tree, top, tables, rules)
    folder = tree.root / top
    if not usable:
        raise DataError(
            f"{folder} has no class folders; expected {folder}/CLASS/image files, or a table of paths "
            "and labels such as labels.csv"
        )
    by_split = _by_split(usable)
    if len(usable) > 1 and not by_split:
        names = ", ".join(table.path.name for table in usable)
        raise DataError(f"{folder} has several tables ({names}); give the one that counts")
    chosen = by_split or {"": usable[0]}
    result.notes.append(f"labels are those of {', '.join(str(t.path) for t in chosen.values())}")
    found = [
        item
        for split in ("", TRAIN, VAL, TEST)
        if split in chosen
        for item in from_table(chosen[split], folder, rules.table, split)
    ]
    return _named_by_folders(found, result)


def _named_by_folders(candidates: list[Candidate], result: Labelled) -> list[Candidate]:
    """With the folders' names as classes, where labels are numbers and each stands for one in training."""
    folders: dict[str, set[str]] = defaultdict(set)
    for item in candidates:
        if not item.problem and item.split in ("", TRAIN):
            folders[item.class_name].add(item.path.parent.name)
    names = {label: min(found) for label, found in folders.items() if len(found) == 1}
    labels = {item.class_name for item in candidates if not item.problem}
    numbers = all(label.isdecimal() for label in labels)
    if not numbers or names.keys() != labels or not 1 < len(set(names.values())) == len(labels):
        return candidates
    result.notes.append(
        "the labels are numbers, and each stands for one folder: the classes have the folders' names"
    )
    return [replace(item, class_name=names.get(item.class_name, "")) for item in candidates]


def _here(top: str, tables: list[str]) -> list[str]:
    """Tables that lie in a folder or in its ``meta``; Kaggle's samples of an answer hold no true labels."""
    places = {top, f"{top}/meta" if top else "meta"}
    here = [path for path in tables if path.rpartition("/")[0] in places]
    return [path for path in here if "submission" not in path.rpartition("/")[2].lower()]


def of_table(tree: Tree, folder: str, table: str, split: str, rules: Rules) -> list[Candidate]:
    """The pictures of a folder that one table labels, all of one split.

    Raises:
        DataError: it does not list pictures and labels.
    """
    read = usable_tables(tree.root, [table], rules.table, strict=True)[0]
    return from_table(read, tree.root / folder, rules.table, split)


def note_tables(tree: Tree, top: str, tables: list[str], result: Labelled) -> None:
    """Folders may be parts of a set whose classes stand in a table under a name that nobody guesses."""
    for path in _here(top, tables):
        if columns := columns_of_listing(tree.root, path):
            result.notes.append(
                f"classes are the folders, although {path} lists the pictures; if it has their classes, say "
                f"data.label_column=NAME (it has: {', '.join(columns)})"
            )
