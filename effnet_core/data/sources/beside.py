"""Tables and lists that lie beside the pictures which they label, and which of them count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
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
from effnet_core.data.sources.names import class_in, way_out
from effnet_core.data.sources.tables import Table
from effnet_core.data.sources.tree import DEFAULT_RULES, Labelled, Rules, Tree
from effnet_core.data.splits import TEST, TRAIN, VAL, is_split
from effnet_core.errors import DataError

LIST_FOLDERS = ("meta", "annotations", "labels", "lists", "splits")
"""Beside the pictures, where lists of them are kept."""
IMAGES_NAMES = ("images", "image", "imgs", "img", "jpegimages", "photos", "pictures")
MASKS_NAMES = (
    *("annotation", "annotations", "mask", "masks", "labels", "trimaps", "groundtruth", "depth"),
    *("segmentation", "segmentations", "segmentationclass", "segmentationobject"),
)
"""Folders that hold something about each picture, in a picture of its own."""
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "_classes.csv")
"""Hugging Face's, and Roboflow's with a column for each class."""
LISTS_SHOWN = 3


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
    flat = all(not tree.folders(path) or only_images(tree, path) for path in folders)
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


def only_images(tree: Tree, folder: str) -> bool:
    """Whether all that a folder holds is a flat one of pictures that is called so."""
    inner = tree.folders(folder)
    names = [path.rpartition("/")[2].lower() for path in inner]
    is_so = len(inner) == 1 and names[0] in IMAGES_NAMES
    return is_so and not tree.direct[folder] and not tree.folders(inner[0])


def masks_in(tree: Tree) -> list[str]:
    """Folders of masks beside the folder of images, which are not classes."""
    top = ""
    while folders := tree.folders(top):
        names = {path: path.rpartition("/")[2].lower() for path in folders}
        masks = [path for path in folders if names[path] in MASKS_NAMES]
        rest = [names[path] for path in folders if path not in masks]
        if len(folders) > 1:
            return masks if len(rest) == 1 and rest[0] in IMAGES_NAMES else []
        top = folders[0]
    return []


def splits_by_table(tree: Tree, top: str, tables: list[str], rules: Rules) -> bool:
    """Whether tables name a split each and label its pictures: ``train.txt``, ``val.txt``."""
    named = [path for path in _here(tree, top, tables) if split_in_or_none(Path(path).stem)]
    several = rules.layout == "auto" and len(named) > 1
    return several and bool(_by_split(_usable(tree, top, tables, rules)))


def _named(tree: Tree, tables: Iterable[Table]) -> list[str]:
    """Their paths below the source, which may be unpacked in a folder that people do not know."""
    return [table.path.relative_to(tree.root).as_posix() for table in tables]


def _split_of(table: Table) -> str:
    return split_in_or_none(table.path.stem)


def _by_split(tables: list[Table]) -> dict[str, Table]:
    """The tables that are called like splits, training among them; empty where that is not clear."""
    named = [(_split_of(table), table) for table in tables]
    found = {split: table for split, table in named if split}
    is_clear = len(found) == sum(bool(split) for split, _ in named)
    return found if TRAIN in found and len(found) > 1 and is_clear else {}


def _usable(tree: Tree, top: str, tables: list[str], rules: Rules) -> list[Table]:
    """The tables of a folder that label its pictures; read once."""
    if top not in tree.tables:
        here = _here(tree, top, tables)
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
            f"and labels such as labels.csv{way_out(tree.below(top))}"
        )
    by_split = _by_split(usable)
    if len(usable) > 1 and not by_split:
        names = ", ".join(table.path.name for table in usable)
        raise DataError(f"{folder} has several tables ({names}); give the one that counts")
    chosen = by_split or {"": usable[0]}
    result.notes.append(f"labels are those of {', '.join(_named(tree, chosen.values()))}")
    found = [
        item
        for split in ("", TRAIN, VAL, TEST)
        if split in chosen
        for item in from_table(chosen[split], folder, rules.table, split)
    ]
    return _with_class_names(found, result)


def _with_class_names(candidates: list[Candidate], result: Labelled) -> list[Candidate]:
    """With class names from folders or files, where each numeric label has one of them in training."""
    usable = [item for item in candidates if not item.problem]
    labels = {item.class_name for item in usable}
    if not all(label.isdecimal() for label in labels):
        return candidates
    sources: dict[str, Callable[[Candidate], str]] = {
        "folder": lambda item: item.path.parent.name,
        "beginning of the files' names": lambda item: class_in(item.path.name),
    }
    for what, name_of in sources.items():
        found: dict[str, set[str]] = defaultdict(set)
        for item in usable:
            if item.split in ("", TRAIN):
                found[item.class_name].add(name_of(item))
        names = {label: min(seen) for label, seen in found.items() if len(seen) == 1 and all(seen)}
        if names.keys() == labels and 1 < len(set(names.values())) == len(labels):
            result.notes.append(
                f"the labels are numbers, and each stands for one {what}, which is the class's name"
            )
            return [replace(item, class_name=names.get(item.class_name, "")) for item in candidates]
    return candidates


def _here(tree: Tree, top: str, tables: list[str]) -> list[str]:
    """Tables of a folder, its ``meta`` or the like; Kaggle's samples of an answer hold no true labels."""
    around = tree.around(top)
    inner = (f"{folder}/{name}" if folder else name for folder in around for name in LIST_FOLDERS)
    places = {*around, *inner}
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
    here, named = _here(tree, top, tables), []
    if any(split_in_or_none(Path(path).stem) for path in here):
        usable = _usable(tree, top, tables, DEFAULT_RULES)
        named = _named(tree, (table for table in usable if _split_of(table)))
    if named:
        more = ", ..." if len(named) > LISTS_SHOWN else ""
        result.notes.append(
            f"classes are the folders, and the lists {', '.join(named[:LISTS_SHOWN])}{more} are not read: "
            "for that there must be one for each split, and one of them for training"
        )
    for path in here:
        if path not in named and (columns := columns_of_listing(tree.root, path)):
            result.notes.append(
                f"classes are the folders, although {path} lists the pictures; if it has their classes, say "
                f"data.label_column=NAME (it has: {', '.join(columns)})"
            )
