"""Tables that name pictures and their classes, as people and programs write them.

CSV with commas, semicolons, tabs or bars, in UTF-8, UTF-16 or Windows' own letters; JSON Lines; Parquet;
lists of ``PATH LABEL``.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.data.images import IMAGE_SUFFIXES
from effnet_core.data.sources.finding import suffix_of
from effnet_core.data.splits import is_split
from effnet_core.errors import DataError
from effnet_core.text import nearest, os_reason

LIST_SUFFIX = ".txt"
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", LIST_SUFFIX)
DELIMITERS = ",;\t|"
HEAD_BYTES = 65_536
"""How much of a text file is read to see whether it is a list."""
NAMES_FILES = ("classes.txt", "labels.txt", "label_list.txt", "class_names.txt", "names.txt")
"""Beside a list whose labels are numbers, the names of its classes, one a line."""

PATH_COLUMNS = (
    *("path", "file_name", "filename", "filepath", "file_path", "image_path", "img_path", "file"),
    *("image", "img", "image_name", "img_name", "image_file", "image_id", "img_id", "imageid"),
    *("uri", "image_uri", "s3_uri", "id", "name"),
)
LABEL_COLUMNS = (
    *("label", "labels", "class", "class_name", "classname", "category", "target", "label_name"),
    *("labelname", "class_label", "choice", "tag", "class_id", "category_id"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold_name")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    number: int
    """As an editor counts lines, or from 1."""
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A table that was read."""

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]

    def column(self, known: tuple[str, ...], what: str, asked: str | None) -> str:
        """The column that holds ``what``.

        Args:
            known: usual names, the most telling one first.
            what: ``path`` or ``label``, for messages.
            asked: name that a setting gives.

        Raises:
            DataError: there is none.
        """
        if asked is not None:
            if asked in self.columns:
                return asked
            raise DataError(
                f"{self.path} has no column {asked!r} (data.{what}_column)"
                f"{nearest(asked, self.columns)} (it has: {', '.join(self.columns)})"
            )
        found = self.find(known)
        if found is None:
            raise DataError(
                f"{self.path} has no column {what!r}{nearest(what, self.columns)} (it has: "
                f"{', '.join(self.columns)}); say which one it is with data.{what}_column"
            )
        return found

    def find(self, known: tuple[str, ...]) -> str | None:
        """The first of ``known`` that is a column, in any case."""
        names = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in self.columns}
        return next((names[name] for name in known if name in names), None)


def is_table(name: str) -> bool:
    """Whether a file is a table by its name."""
    return name.lower().endswith(TABLE_SUFFIXES)


def read_table(path: Path) -> Table:
    """All rows of a table; empty lines are left out.

    Raises:
        DataError: it cannot be read, or is not a table.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(path)
        if suffix == LIST_SUFFIX and not _may_be_list(path):
            raise ValueError("its beginning names no picture")
        text = decode_text(path.read_bytes())
        if suffix in (".jsonl", ".ndjson"):
            return _of_rows(path, list(_json_rows(text)))
        return _read_list(path, text) if suffix == LIST_SUFFIX else _read_csv(path, text)
    except OSError as cause:
        raise DataError(f"{path} cannot be read ({os_reason(cause)})") from cause
    except (ValueError, TypeError, csv.Error, MemoryError) as cause:
        reason = " ".join(str(getattr(cause, "msg", cause)).split())[:200]
        raise DataError(f"{path} is not a table ({reason})") from cause


def decode_text(content: bytes, fallback: str | None = "cp1252") -> str:
    """Text of any of the encodings that editors and spreadsheets write.

    Raises:
        UnicodeDecodeError: it is in none of them, and there is no ``fallback``.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    start = content[:200]
    if start[1::2].count(0) > len(start) // 4:
        return content.decode("utf-16-le")
    if start[::2].count(0) > len(start) // 4:
        return content.decode("utf-16-be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if fallback is None:
            raise
        return content.decode(fallback, "replace")


def _read_csv(path: Path, text: str) -> Table:
    said = re.match(r"sep=(.)\r?\n", text)  # Excel's
    lines_before = 0
    if said:
        text, lines_before = text[said.end() :], 1
    head = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    delimiter = said[1] if said else max(DELIMITERS, key=head.count)
    if path.suffix.lower() == ".tsv" and "\t" in head:
        delimiter = "\t"
    names = _names_without_head(
        next(csv.reader([text.partition("\n")[0]], delimiter=delimiter), [])
    )
    reader = csv.DictReader(io.StringIO(text, newline=""), names or None, delimiter=delimiter)
    columns = tuple((name or "").strip() for name in reader.fieldnames or ())
    reader.fieldnames = list(columns)
    rows = [
        Row(reader.line_num + lines_before, {k: v for k, v in row.items() if k is not None})
        for row in reader
        if any(isinstance(value, str) and value.strip() for value in row.values())
    ]
    return Table(path, columns, rows)


_LISTED = re.compile(
    rf"(?P<path>.+?(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))}))\s+(?P<label>\S[^\t]*)(\t.*)?",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<path>\S+)\s+(?P<label>\d+)(\s+\d+)*")
"""A path without its suffix and the number of its class: ``Abyssinian_1 1 1 1`` of the Oxford pets."""
_IN_FOLDER = re.compile(r"(.*/)?(?P<label>[^/]+)/[^/]+")
"""A path whose folder is the class: ``apple_pie/1005649`` of Food-101."""


def _may_be_list(path: Path) -> bool:
    """Whether a text begins as a list does; others may be long, and are not read."""
    with path.open("rb") as stream:
        head = decode_text(stream.read(HEAD_BYTES))
    if any(suffix in head.lower() for suffix in IMAGE_SUFFIXES):
        return True
    first = next(iter(_lines(head)), (0, ""))[1]
    return any(form.fullmatch(first) for form in (_NUMBERED, _IN_FOLDER))


def _lines(text: str) -> list[tuple[int, str]]:
    """The lines of a list with their numbers, without empty ones and remarks."""
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), start=1)]
    return [(n, line) for n, line in lines if line and (line[0] != "#" or _LISTED.fullmatch(line))]


def _read_list(path: Path, text: str) -> Table:
    """``PATH LABEL`` a line, as Caffe, MMPretrain and PaddleClas keep lists; with delimiters a table."""
    lines = _lines(text)
    number, first = lines[0] if lines else (1, "")
    is_table = any(delimiter in first for delimiter in DELIMITERS)
    forms = (_LISTED, _NUMBERED) if is_table else (_LISTED, _NUMBERED, _IN_FOLDER)
    form = next((form for form in forms if form.fullmatch(first)), None)
    if lines and form is None:
        if not is_table:
            raise ValueError(f"line {number} is not a picture's path and its class")
        return _read_csv(path, text)
    columns = PATH_COLUMNS[0], LABEL_COLUMNS[0]
    pairs = [(n, _pair(line, form)) for n, line in lines]
    labels = {label for _, (_, label) in pairs if label}
    if form is _IN_FOLDER and (len(labels) < 2 or all(map(is_split, labels))):
        raise ValueError("its lines name pictures and no classes")
    names = _names_of_numbers(path.parent, labels)
    rows = [
        Row(n, dict(zip(columns, (file, names.get(label, label)), strict=True)))
        for n, (file, label) in pairs
    ]
    return Table(path, columns, rows)


def _pair(line: str, form: re.Pattern[str] | None) -> tuple[str, str]:
    """A picture's path and its class, empty where the line is of another form."""
    found = form.fullmatch(line) if form else None
    if found is None:
        return line, ""
    return line if form is _IN_FOLDER else found["path"], found["label"].strip()


def _names_of_numbers(folder: Path, labels: set[str]) -> dict[str, str]:
    """What a file beside a list calls the classes whose numbers it has; empty where none does."""
    if not all(label.isdecimal() for label in labels):
        return {}
    for file in (folder / name for name in NAMES_FILES):
        if not file.is_file():
            continue
        lines = [line.strip() for line in decode_text(file.read_bytes()).splitlines()]
        names = [line for line in lines if line]
        numbered = [line.partition(" ") for line in names]
        if all(number == str(n) for n, (number, _, _) in enumerate(numbered)):
            names = [name.strip() or number for number, _, name in numbered]
        by_number = {str(n): name for n, name in enumerate(names)}
        if len(set(names)) == len(names) and labels <= by_number.keys():
            return by_number
    return {}


def _names_without_head(first: list[str]) -> list[str]:
    """Names for the columns of a table that begins with a picture, not with such names; else none."""
    cells = [cell.strip() for cell in first]
    pictures = [cell for cell in cells if suffix_of(cell) in IMAGE_SUFFIXES]
    if len(pictures) != 1 or len(cells) < 2:
        return []
    return [
        PATH_COLUMNS[0]
        if cell in pictures
        else LABEL_COLUMNS[0]
        if len(cells) == 2
        else f"column {n}"
        for n, cell in enumerate(cells, start=1)
    ]


def _json_rows(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError(f"line {number} is not an object")
            yield Row(number, values)


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            fields = [f.name for f in file.schema_arrow if not pa.types.is_nested(f.type)]
            values = file.read(columns=fields).to_pylist()
    except pa.ArrowException as cause:
        raise ValueError(str(cause)) from cause
    rows = [Row(number, row) for number, row in enumerate(values, start=1)]
    return Table(path, tuple(fields), rows)


def _of_rows(path: Path, rows: list[Row]) -> Table:
    return Table(path, tuple(dict.fromkeys(name for row in rows for name in row.values)), rows)
