"""Parquet files that hold the pictures themselves, as the Hugging Face hub keeps image data sets.

A column of ``{bytes, path}`` or of plain bytes, and a label: a text, or a number whose name stands in the
file's metadata. The pictures are written to files, one folder a Parquet file, whole or absent.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effnet_core.data.sources.archives import DEFAULT_LIMITS
from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.finding import suffix_of
from effnet_core.data.sources.formats import carved
from effnet_core.data.sources.shards import filled_up, splits_of
from effnet_core.data.sources.tables import LABEL_COLUMNS, PATH_COLUMNS, Table
from effnet_core.data.sources.tree import Labelled, Rules
from effnet_core.errors import DataError
from effnet_core.system.files import require_space
from effnet_core.text import human_bytes, os_reason

ROWS = 16
"""Rows that are in memory at once; a picture may be large."""
MAX_SUFFIX = 6
LABELS_NAME = "labels.json"
"""What is kept of the table beside its pictures: row, label, and what people know it by."""


def picture_column(path: Path, asked: str | None = None) -> str:
    """The column of a Parquet file that holds pictures; empty where none does.

    Args:
        path: a file of any kind.
        asked: name that a setting gives.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        return ""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):  # reading it as a table says what is wrong
        return ""
    return picture_field(schema, asked)


def picture_field(schema: Any, asked: str | None = None) -> str:
    """As ``picture_column``, by an Arrow schema."""
    import pyarrow as pa

    found = {field.name: _holds_bytes(field.type) for field in schema}
    if asked is not None:
        return asked if found.get(asked) else ""
    nested = [name for name in found if found[name] and pa.types.is_struct(schema.field(name).type)]
    plain = [name for name in found if found[name] and name.lower() in (*PATH_COLUMNS, "bytes")]
    return next(iter((*nested, *plain)), "")


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def from_embedded(files: list[tuple[str, Path]], out: Path, rules: Rules) -> Labelled:
    """The pictures of Parquet files, after they were written to ``out``.

    Args:
        files: name below ``out`` and path of each; the split that a name holds is that of its pictures.
        out: folder that gets a folder for each file; one that is there is taken as done.
        rules: what people say about the columns.

    Raises:
        DataError: a file is damaged or has no labels, only some files name a split, or there is no room.
    """
    result = Labelled()
    found: list[Candidate] = []
    splits = splits_of([name for name, _ in files], "table")
    for (name, path), split in zip(files, splits, strict=True):
        try:
            folder = _write(path, out / name, rules)
            rows = json.loads((folder / LABELS_NAME).read_text(encoding="utf-8"))
        except OSError as cause:
            raise DataError(
                f"the pictures of {path} cannot be written to {out} ({os_reason(cause)}); choose a folder "
                "that can be written to and has room"
            ) from cause
        for file, number, label, called in rows:
            inner = f"{name}/{file}"
            shown = f"{name}, row {number}" + (f": {called}" if called else "")
            problem = ""
            if not label or not file:
                what = "label" if file else "picture"
                problem = f"row {number} of {path.name} has no {what}"
            found.append(Candidate(folder / file, split, label, inner, shown, problem))
    for split in sorted({item.split for item in found}):
        of_split = [item for item in found if item.split == split]
        if not any(item.class_name for item in of_split) and len(of_split) < len(found):
            where = f"split {split}" if split else "tables without a split"
            result.notes.append(
                f"left out: {where} with {len(of_split):,} picture(s), which have no classes"
            )
            result.other += [(item.shown, "a picture without a class") for item in of_split]
            found = [item for item in found if item.split != split]
    result.candidates = carved(filled_up(found), result.notes)
    return result


def _write(path: Path, folder: Path, rules: Rules) -> Path:
    """Write the pictures of one file; the folder appears only when all of them are there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if folder.exists():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with pq.ParquetFile(path) as file:
            size = sum(
                file.metadata.row_group(n).total_byte_size for n in range(file.num_row_groups)
            )
            require_space(partial, size, what=f"the pictures of {path.name}")
            rows = list(_rows(path, file, partial, rules))
        (partial / LABELS_NAME).write_text(json.dumps(rows), encoding="utf-8")
        partial.rename(folder)
    except (pa.ArrowException, OSError) as cause:
        if isinstance(cause, OSError) and cause.errno is not None:
            raise
        raise DataError(
            f"{path} is damaged or cut ({' '.join(str(cause).split())[:200]}); fetch it again"
        ) from cause
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _rows(path: Path, file: Any, out: Path, rules: Rules) -> Iterator[tuple[str, int, str, str]]:
    """File, number, label and name of every row, whose picture is written on the way."""
    pictures = picture_column(path, rules.table.path_column) or picture_column(path)
    columns = tuple(name for name in file.schema_arrow.names if name != pictures)
    known = [name for name in LABEL_COLUMNS if name in columns] or [
        name for name in columns if name.lower().endswith("label")
    ]
    labels = (
        known[0]
        if known and rules.table.label_column is None
        else Table(path, columns, []).column(LABEL_COLUMNS, "label", rules.table.label_column)
    )
    names = _class_names(file.schema_arrow, labels)
    room = DEFAULT_LIMITS.unpacked(path)
    number = 0
    for batch in file.iter_batches(ROWS, columns=[pictures, labels]):
        for row in batch.to_pylist():
            value, called = row[pictures], ""
            if isinstance(value, dict):
                called = str(value.get("path") or "")
                value = value.get("bytes")
            name = ""
            if value:
                room -= len(value)
                if room < 0:
                    raise DataError(
                        f"{path} is refused: its pictures take more than "
                        f"{human_bytes(DEFAULT_LIMITS.unpacked(path))}, as if to fill the disk"
                    )
                suffix = suffix_of(called)
                name = f"{number:08d}{suffix if suffix[1:].isalnum() and len(suffix) <= MAX_SUFFIX else ''}"
                (out / name).write_bytes(value)
            yield name, number, _label(row[labels], names), called
            number += 1


def _label(value: Any, names: list[str]) -> str:
    """The class of a row; empty for none, which the hub writes as -1."""
    if isinstance(value, int) and not isinstance(value, bool) and (names or value < 0):
        return names[value] if 0 <= value < len(names) else ""
    if value is None or isinstance(value, (dict, list)):
        return ""
    return unicodedata.normalize("NFC", str(value).strip())


def _class_names(schema: Any, column: str) -> list[str]:
    """The names of the numbers in a column of labels, by the hub's metadata; empty for none."""
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])
        names = said["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    if isinstance(names, dict):  # of older versions: {"0": name}
        names = [names[key] for key in sorted(names, key=int)]
    return [str(name) for name in names]
