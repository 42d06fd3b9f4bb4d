"""The samples of tar shards in WebDataset's naming: ``KEY.jpg`` and ``KEY.cls`` or ``KEY.json``."""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from effnet_core.data.images import IMAGE_SUFFIXES
from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.finding import find_files
from effnet_core.data.sources.formats import carved
from effnet_core.data.sources.tables import LABEL_COLUMNS
from effnet_core.data.sources.tree import Labelled
from effnet_core.data.splits import split_in
from effnet_core.errors import DataError

LABEL_SUFFIXES = (".cls", ".json", ".label", ".class", ".cls.txt", ".class_name")
"""Ends of the names of files that hold a sample's class, the most telling first."""
MAIN_PARTS = ("image", "img", "input", "rgb", "0")
"""Parts of a sample that are its picture where several end as pictures do: ``KEY.image.png``."""


def from_shards(folders: list[tuple[str, Path]]) -> Labelled:
    """The samples of unpacked shards.

    Args:
        folders: name and folder of each shard; the split that a name holds anywhere is that of its samples.

    Raises:
        DataError: there are no samples, or only some shards name a split.
    """
    result = Labelled()
    samples: list[Candidate] = []
    splits = splits_of([name for name, _ in folders], "shard")
    for (shard, folder), split in zip(folders, splits, strict=True):
        found = find_files(folder)
        result.other += [
            (f"{shard}/{path}", why) for path, why in found.other if not is_label(path)
        ]
        result.left_out += [(f"{shard}/{path}", why) for path, why in found.left_out]
        for path, part in _pictures(found.pictures):
            inner = f"{shard}/{path}"
            if part:
                result.other.append((inner, f"part {part!r} of a sample, not its picture"))
                continue
            label = _label_of(folder / path)
            problem = "" if label else _no_label(path, shard)
            samples.append(Candidate(folder / path, split, label, inner, inner, problem))
    if not samples:
        raise DataError("the shards hold no images (KEY.jpg beside KEY.cls or KEY.json)")
    result.candidates = carved(filled_up(samples), result.notes)
    return result


def filled_up(candidates: list[Candidate]) -> list[Candidate]:
    """The same, with numbers filled up with zeros, so that the order of names is the order of numbers."""
    names = {item.class_name for item in candidates if item.class_name}
    if not all(name.isdigit() for name in names):
        return candidates
    width = max(map(len, names), default=0)
    return [
        replace(item, class_name=item.class_name.zfill(width)) if item.class_name else item
        for item in candidates
    ]


def is_label(name: str) -> bool:
    """Whether a member of an archive may be a sample's label."""
    return name.lower().endswith(LABEL_SUFFIXES)


def splits_of(names: list[str], kind: str) -> list[str]:
    """The split of each file that holds pictures, by its own name or that of the folder it lies in.

    Raises:
        DataError: only some of them name one.
    """
    found = [split_in(name.rpartition("/")[2]) or split_in(name) for name in names]
    if any(found) and not all(found):
        named, silent = names[next(i for i, s in enumerate(found) if s)], names[found.index("")]
        raise DataError(
            f"{kind} {named!r} names its split and {kind} {silent!r} does not, so that their pictures would "
            "be mixed; rename the second, or stage them apart"
        )
    return found


def _pictures(paths: list[str]) -> list[tuple[str, str]]:
    """Every picture, and which part of a sample it is where it is not the sample's picture."""
    samples: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for path in paths:
        folder, slash, name = path.rpartition("/")
        key, _, extension = name.partition(".")
        samples[f"{folder}{slash}{key}"].append((path, extension.lower()))
    found = []
    for parts in samples.values():
        main = _main([extension for _, extension in parts])
        found += [(path, "" if ext in main else ext) for path, ext in parts]
    return sorted(found)


def _main(extensions: list[str]) -> set[str]:
    """Which of the extensions of one key are pictures of the sample: plain ones, such as ``jpg``."""
    plain = {ext for ext in extensions if f".{ext}" in IMAGE_SUFFIXES or not ext}
    if plain:
        return plain
    for name in MAIN_PARTS:
        if named := {ext for ext in extensions if ext.partition(".")[0] == name}:
            return named
    return set(extensions)  # one picture, or a name that itself has dots


def _label_of(path: Path) -> str:
    """A sample's label, from the file of its name that ends as labels do; empty for none."""
    # WebDataset's key ends at the first dot of the file name; people's names may have more.
    keys = dict.fromkeys((path.name.partition(".")[0], path.name.rpartition(".")[0]))
    for key in keys:
        for suffix in LABEL_SUFFIXES:
            file = path.with_name(f"{key}{suffix}")
            if file.is_file() and (label := _read_label(file)):
                return unicodedata.normalize("NFC", label)
    return ""


def _read_label(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix != ".json":
            return text.strip()
        values = json.loads(text)
        value: Any = next((values[name] for name in LABEL_COLUMNS if name in values), None)
    except (ValueError, TypeError, OSError):
        return ""
    return "" if value is None or isinstance(value, (dict, list)) else str(value).strip()


def _no_label(path: str, shard: str) -> str:
    name = path.rpartition("/")[2]
    key = name.partition(".")[0]
    return (
        f"image {name!r} of shard {shard!r} has no label: put {key}.cls with the class, or {key}.json with "
        "a field label, beside it in the shard"
    )
