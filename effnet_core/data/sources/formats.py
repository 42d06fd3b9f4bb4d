"""Which picture of a folder belongs to which class and split: the forms that data sets come in.

- class folders: ``CLASS/*``, or ``train/CLASS/*`` and ``val/CLASS/*``, whatever the splits are called
- Hugging Face's imagefolder: the same, or ``train/metadata.csv`` with ``file_name`` and a label
- a table or list of paths and labels (``listed.py``), alone or beside the pictures; one for each split counts
  also where the folders are classes
- files that are called by their class (``names.py``), where people say so
- tar shards in WebDataset's naming: ``KEY.jpg`` and ``KEY.cls`` or ``KEY.json``, unpacked before
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

from effnet_core.data.sources.beside import (
    is_flat_beside_table,
    masks_in,
    metadata_in,
    note_tables,
    of_table,
    of_tables,
    only_images,
    splits_by_table,
)
from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.finding import Found, find_files, why_left_out
from effnet_core.data.sources.listed import from_table, usable_tables
from effnet_core.data.sources.names import by_names, way_out
from effnet_core.data.sources.tables import is_table
from effnet_core.data.sources.tree import DEFAULT_RULES, Labelled, Rules, Tree
from effnet_core.data.splits import TRAIN, VAL, is_split, split_in
from effnet_core.errors import DataError
from effnet_core.text import os_reason


def find_images(source: Path, rules: Rules = DEFAULT_RULES) -> Labelled:
    """Every labelled picture of a folder or table, in a fixed order, and what else there is.

    Raises:
        DataError: it is missing, has no classes, or does not say whether its folders are splits.
    """
    if source.is_file() and is_table(source.name):
        table = usable_tables(source.parent, [source.name], rules.table, strict=True)[0]
        root = Path(rules.table.root) if rules.table.root else source.parent
        result = Labelled()
        result.candidates = carved(from_table(table, root, rules.table), result.notes)
        return result
    try:
        found = find_files(source)
    except FileNotFoundError as cause:
        raise DataError(f"data folder {source} does not exist") from cause
    except OSError as cause:
        raise DataError(f"folder {source} cannot be read ({os_reason(cause)})") from cause
    return label_files(source, found, rules)


def label_files(source: Path, found: Found, rules: Rules) -> Labelled:
    """As ``find_images``, of files that are found already."""
    result = Labelled(other=list(found.other), left_out=list(found.left_out))
    tree = _without_masks(Tree(source, found.pictures), result, rules)
    top = _unwrapped(tree)
    if len(tree.pictures) < len(found.pictures) and only_images(tree, top):
        [top] = tree.folders(top)  # nor do lists mean a mask that is called like its picture
    tables = [path for path, _ in found.other if is_table(path)]
    if rules.layout == "names":
        result.candidates = by_names(tree)
    elif (table := metadata_in(tree.root, top, tables)) and not _has_splits(tree, top, rules):
        result.candidates = of_table(tree, top, table, "", rules)
    elif is_flat_beside_table(tree, top, tables, rules) or splits_by_table(
        tree, top, tables, rules
    ):
        result.candidates = of_tables(tree, top, tables, result, rules)
    elif splits := _splits_of(tree, top, tables, result, rules):
        for split, folder in splits:
            table = metadata_in(tree.root, folder, tables)
            if table:
                result.candidates += of_table(tree, folder, table, split, rules)
            elif only_images(tree, folder):
                labelled = of_tables(tree, folder, tables, result, rules)
                result.candidates += [replace(item, split=split) for item in labelled]
            else:
                result.candidates += _of_classes(tree, folder, split, result)
    elif tree.folders(top) and not (rules.layout == "auto" and only_images(tree, top)):
        result.candidates = _of_classes(tree, top, "", result)
        note_tables(tree, top, tables, result)
    else:
        result.candidates = of_tables(tree, top, tables, result, rules)
    _note_pictures_without_class(found, result, source)
    result.candidates = carved(_same_classes(result.candidates), result.notes)
    return result


def _without_masks(tree: Tree, result: Labelled, rules: Rules) -> Tree:
    masks = masks_in(tree) if rules.layout != "classes" else []
    for folder in masks:
        result.notes.append(
            f"left out: {folder}/ with {len(tree.below(folder)):,} picture(s), masks by the folder's name; "
            "if the folders are classes, say data.layout=classes"
        )
    inside = tuple(f"{folder}/" for folder in masks)
    kept = [path for path in tree.pictures if not path.startswith(inside)]
    return Tree(tree.root, kept) if masks else tree


def _unwrapped(tree: Tree, top: str = "") -> str:
    """The folder of the classes or splits: a single folder around everything is packing."""
    while len(inner := tree.folders(top)) == 1:
        [folder] = inner
        deeper = tree.folders(folder)
        if not deeper or is_split(folder.rpartition("/")[2]):
            return top
        if tree.direct[folder] and len(deeper) < 2:
            return top
        top = folder
    return top


def _has_splits(tree: Tree, top: str, rules: Rules) -> bool:
    names = [path for path in tree.folders(top) if is_split(path.rpartition("/")[2])]
    return rules.layout != "classes" and any(tree.folders(path) for path in names)


def _splits_of(
    tree: Tree, top: str, tables: list[str], result: Labelled, rules: Rules
) -> list[tuple[str, str]]:
    """Split and folder of each split; empty where the folders are classes.

    Raises:
        DataError: the folders could be either, or the splits have no training split.
    """
    if rules.layout == "classes":
        return []
    folders = tree.folders(top)
    named = {path: _split_of_folder(path, rules) for path in folders}
    nested = {path for path in folders if _has_classes(tree, path, tables, rules)}
    splits = [path for path in folders if named[path]]
    rest = [path for path in folders if not named[path]]
    if not splits or (rules.layout == "auto" and _are_classes(splits, rest, nested, named)):
        return []
    if rules.layout == "auto" and rest and not _is_clear(splits, rest, nested, named):
        raise _ambiguous(tree.root, splits, rest)
    found = [(named[path], path) for path in splits if path in nested]
    if not any(split == TRAIN for split, _ in found):
        raise _no_training(tree, splits, found)
    for path in splits:
        if path not in nested:
            count = len(tree.below(path))
            result.notes.append(
                f"left out: {path}/ with {count:,} picture(s), which have no classes"
            )
    for path in rest:
        count = len(tree.below(path))
        result.notes.append(f"left out: {path}/ with {count:,} picture(s), beside the splits")
    return sorted(
        ((split, _unwrapped_split(tree, path)) for split, path in found),
        key=lambda item: (item[0] != TRAIN, item[0] != VAL, item[1]),
    )


def _has_classes(tree: Tree, folder: str, tables: list[str], rules: Rules) -> bool:
    """Whether a folder holds class folders, or pictures that a table inside labels."""
    if metadata_in(tree.root, folder, tables):
        return True
    if only_images(tree, folder):
        return is_flat_beside_table(tree, folder, tables, rules)
    return bool(tree.folders(folder))


def _split_of_folder(path: str, rules: Rules) -> str:
    name = path.rpartition("/")[2]
    try:
        return split_in(name)
    except DataError:
        if rules.layout == "splits":
            raise
        return ""


def _are_classes(
    splits: list[str], rest: list[str], nested: set[str], named: dict[str, str]
) -> bool:
    """Whether folders of which some are named as splits are classes: a data set may have a class train."""
    inside = [path for path in splits if path in nested]
    if not inside:
        return bool(rest) or not all(is_split(path.rpartition("/")[2]) for path in splits)
    if rest:
        return len({named[path] for path in inside}) == 1 and nested >= {*splits, *rest}
    return not any(is_split(path.rpartition("/")[2]) for path in splits) and (
        len({named[path] for path in splits}) == 1 and len(splits) > 1
    )


def _is_clear(splits: list[str], rest: list[str], nested: set[str], named: dict[str, str]) -> bool:
    """Whether folders beside splits are something else: the splits hold classes, and they do not."""
    roles = {named[path] for path in splits if path in nested}
    return len(roles) > 1 and TRAIN in roles and not nested.intersection(rest)


def _ambiguous(root: Path, splits: list[str], rest: list[str]) -> DataError:
    return DataError(
        f"{root} has {splits[0]}/, which is called like a split, beside {rest[0]}/, which is not; if all "
        "folders are classes, say data.layout=classes; if they are splits and something else, say "
        "data.layout=splits"
    )


def _no_training(tree: Tree, splits: list[str], found: list[tuple[str, str]]) -> DataError:
    names = ", ".join(f"{path}/" for path in splits)
    if found:
        return DataError(
            f"{tree.root} has {names} but no training split with class folders; add train/, or give the "
            f"folder {tree.root / found[0][1]} itself"
        )
    return DataError(
        f"{tree.root} has no class folders: {names} hold pictures themselves; put them into class folders, "
        "put a table of paths and labels beside them, or, if these folders are the classes, say "
        f"data.layout=classes{way_out(tree.pictures)}"
    )


def _unwrapped_split(tree: Tree, folder: str) -> str:
    """``seg_train/seg_train/CLASS``: a folder of the split's name inside it is packing."""
    inner = tree.folders(folder)
    if len(inner) == 1 and not tree.direct[folder] and tree.folders(inner[0]):
        same = inner[0].rpartition("/")[2].lower() == folder.rpartition("/")[2].lower()
        if same or is_split(inner[0].rpartition("/")[2]):
            return _unwrapped_split(tree, inner[0])
    return folder


def _of_classes(tree: Tree, top: str, split: str, result: Labelled) -> list[Candidate]:
    found = []
    _note_empty(tree, top, result)
    for folder in tree.folders(top):
        name = unicodedata.normalize("NFC", folder.rpartition("/")[2])
        for path in tree.below(folder):
            found.append(Candidate(tree.root / path, split, name, path[len(folder) + 1 :]))
    return found


def _note_empty(tree: Tree, top: str, result: Labelled) -> None:
    """A folder beside the classes without any picture is no class; people may have expected one."""
    empty = sorted(
        entry.name
        for entry in os.scandir(tree.root / top)
        if entry.is_dir(follow_symlinks=False)
        and entry.name not in tree.inner[top]
        and not why_left_out(entry.name, True)
    )
    if empty:
        names = ", ".join(f"{name}/" for name in empty[:5])
        result.notes.append(f"left out: {len(empty):,} folder(s) without any picture ({names})")


def _note_pictures_without_class(found: Found, result: Labelled, source: Path) -> None:
    """Pictures that nobody labels are other files too: none is lost without a word."""
    labelled = {item.path for item in result.candidates}
    lost = [path for path in found.pictures if source / path not in labelled]
    result.other += [(path, "a picture without a class") for path in lost]
    if lost and not result.notes:
        result.notes.append(
            f"left out: {len(lost):,} picture(s) without a class; the first: {lost[0]}"
        )


def _same_classes(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates with paths of their own, also where two spellings of one class came together."""
    seen: dict[tuple[str, str, str], int] = {}
    result = []
    for item in candidates:
        key = (item.split, item.class_name, item.inner)
        seen[key] = count = seen.get(key, 0) + 1
        folder, slash, name = item.inner.rpartition("/")
        result.append(item if count == 1 else replace(item, inner=f"{folder}{slash}{count}~{name}"))
    return result


def carved(candidates: list[Candidate], notes: list[str]) -> list[Candidate]:
    """Where there is a training split and no validation split, some of the first become the second."""
    splits = {item.split for item in candidates}
    if VAL in splits or TRAIN not in splits:
        return candidates
    notes.append("there is no validation split; a share of the training pictures becomes it")
    return [replace(item, split="") if item.split == TRAIN else item for item in candidates]
