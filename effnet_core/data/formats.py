"""Which image of a folder belongs to which class and split: the forms that data sets come in.

- class folders: ``CLASS/*``, or ``train/CLASS/*`` and ``val/CLASS/*``
- Hugging Face's imagefolder: the same, or ``train/metadata.csv`` with ``file_name`` and a label
- a CSV file with the columns ``path`` and ``label``, and ``split`` where there is one
- tar shards in WebDataset's naming: ``KEY.jpg`` and ``KEY.cls`` or ``KEY.json``, unpacked before
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.data.images import IMAGE_SUFFIXES
from effnet_core.errors import DataError
from effnet_core.storage.addresses import require_name
from effnet_core.text import nearest, os_reason

TRAIN, VAL = "train", "val"
SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "dev": VAL,
    "test": "test",
}
"""What splits are called, and what they are called here."""

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category")
PATH_COLUMNS = ("path", "file_name", "file", "image", "filename")


@dataclass(frozen=True)
class Candidate:
    """A file found in the source, not yet looked into."""

    path: Path
    split: str
    """Empty where the source does not say; then a rule decides."""
    class_name: str
    inner: str
    """Path inside the class folder."""
    shown: str = ""
    """What people know the file by; its path where empty."""


def find_images(source: Path) -> list[Candidate]:
    """Every labelled file of a folder or CSV file, in a fixed order; hidden names are left out.

    Raises:
        DataError: it is missing, has no classes, or one of them has no files.
    """
    if source.is_file() and source.suffix.lower() == ".csv":
        return from_table(source, list(_rows(source)), source.parent)
    if not source.is_dir():
        raise DataError(f"data folder {source} does not exist")
    roots = _split_folders(source)
    if roots:
        if not any(split == TRAIN for split, _ in roots) or len(roots) == 1:
            name = roots[0][1].name
            raise DataError(
                f"{source} has {name}/ but no {'val' if name.startswith('train') else 'train'}/ beside "
                f"it; add one, or give {source}/{name}"
            )
    else:
        roots = [("", source)]
    return [found for split, root in roots for found in _find_below(root, split)]


def visible(folder: Path) -> list[Path]:
    """What a folder shows, sorted.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as cause:
        raise DataError(f"folder {folder} cannot be read ({os_reason(cause)})") from cause


def from_table(
    table: Path, rows: list[dict[str, Any]], root: Path, split: str = ""
) -> list[Candidate]:
    """The files that a table lists.

    Args:
        table: for messages.
        rows: each with a path and a label.
        root: folder that paths are relative to.
        split: of all rows; that of the column where empty.

    Raises:
        DataError: a column is missing, or a path leads out of ``root``.
    """
    if not rows:
        raise DataError(f"{table} lists no images; add rows under the columns path and label")
    columns = list(rows[0])
    path_column = _column(table, columns, PATH_COLUMNS, "path")
    label_column = _column(table, columns, LABEL_COLUMNS, "label")
    found, seen = [], set()
    for number, row in enumerate(rows, start=2 if table.suffix == ".csv" else 1):
        path, label = str(row.get(path_column) or ""), _label(row.get(label_column))
        try:
            name = require_name(path)
            if not label or require_name(label) != label or "/" in label or label.startswith("."):
                raise ValueError(f"the label {label!r}, which cannot be a folder's name")
        except ValueError as reason:
            raise DataError(
                f"{table} is refused: line {number} has {reason} ({path!r}); paths are relative to {root} "
                "and stay below it"
            ) from None
        if name in seen:
            raise DataError(f"{table} is refused: line {number} lists {path!r} a second time")
        seen.add(name)
        place = split or _split_name(str(row.get("split") or ""), table, number)
        found.append(Candidate(root / name, place, label, name))
    return sorted(
        found, key=lambda item: (item.split != TRAIN, item.split, item.class_name, item.inner)
    )


def from_shards(folders: list[tuple[str, Path]]) -> list[Candidate]:
    """The samples of unpacked tar shards.

    Args:
        folders: name and folder of each shard; a name that begins with a split's gives its images to it.

    Raises:
        DataError: an image has no label.
    """
    samples: list[tuple[str, Path, str, str]] = []
    for shard, folder in folders:
        split = next((SPLITS[name] for name in SPLITS if shard.lower().startswith(name)), "")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                label = _shard_label(path, shard)
                inner = f"{shard}/{path.relative_to(folder).as_posix()}"
                samples.append((split, path, label, inner))
    if not samples:
        raise DataError("the shards hold no images (KEY.jpg beside KEY.cls or KEY.json)")
    names = {label for _, _, label, _ in samples}
    # Numbers are filled up with zeros, so that the order of names is the order of numbers.
    width = max(map(len, names)) if all(name.isdigit() for name in names) else 0
    return [
        Candidate(path, split, label.zfill(width), inner, inner)
        for split, path, label, inner in samples
    ]


def _split_folders(source: Path) -> list[tuple[str, Path]]:
    """Split and folder of each split that a source has; empty where its folders are classes."""
    names = {path.name.lower(): path for path in visible(source) if path.is_dir()}
    if not any(SPLITS.get(name) == TRAIN for name in names):
        return []
    found = [(SPLITS[name], path) for name, path in names.items() if name in SPLITS]
    return sorted(found, key=lambda item: (item[0] != TRAIN, item[0] != VAL, item[1].name))


def _find_below(root: Path, split: str) -> Iterator[Candidate]:
    table = next((root / name for name in METADATA_NAMES if (root / name).is_file()), None)
    if table is not None and _names_labels(table):
        yield from from_table(table, list(_rows(table)), root, split)
        return
    folders = [path for path in visible(root) if path.is_dir()]
    if not folders:
        raise DataError(f"{root} has no class folders; expected {root}/CLASS/image files")
    for folder in folders:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
        if not files:
            raise DataError(f"class folder {folder} has no images; fill it or remove it")
        for path in files:
            yield Candidate(path, split, folder.name, str(path.relative_to(folder)))


def _names_labels(table: Path) -> bool:
    first = next(_rows(table), {})
    return any(column in first for column in LABEL_COLUMNS)


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            if table.suffix.lower() == ".csv":
                yield from csv.DictReader(stream)
                return
            for line in filter(str.strip, stream):
                yield dict(json.loads(line))
    except OSError as cause:
        raise DataError(f"{table} cannot be read ({os_reason(cause)})") from cause
    except (ValueError, TypeError, csv.Error) as cause:
        raise DataError(f"{table} is no table ({' '.join(str(cause).split())})") from cause


def _column(table: Path, columns: list[str], known: tuple[str, ...], what: str) -> str:
    for name in known:
        if name in columns:
            return name
    raise DataError(
        f"{table} has no column {what!r}{nearest(what, [c for c in columns if c])} (it has: "
        f"{', '.join(str(c) for c in columns)}); name one so"
    )


def _label(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _split_name(name: str, table: Path, number: int) -> str:
    if not name:
        return ""
    found = SPLITS.get(name.strip().lower())
    if found is None:
        raise DataError(
            f"{table} is refused: line {number} has the split {name!r}{nearest(name, SPLITS)} (known: "
            f"{', '.join(SPLITS)})"
        )
    return found


def _shard_label(path: Path, shard: str) -> str:
    """A sample's label: from the file of its name that ends in ``.cls`` or ``.json``."""
    # WebDataset's key ends at the first dot of the file name.
    key = path.with_name(path.name.partition(".")[0])
    try:
        if (found := Path(f"{key}.cls")).is_file():
            label = found.read_text(encoding="utf-8").strip()
        elif (found := Path(f"{key}.json")).is_file():
            values = json.loads(found.read_text(encoding="utf-8"))
            label = _label(next((values[c] for c in LABEL_COLUMNS if c in values), None))
        else:
            label = ""
        if (
            label
            and "/" not in label
            and not label.startswith(".")
            and require_name(label) == label
        ):
            return label
    except (ValueError, TypeError, OSError):
        pass
    raise DataError(
        f"image {path.name!r} of shard {shard!r} has no label: put {key.name}.cls with the class, or "
        f"{key.name}.json with a field label, beside it in the shard"
    )
