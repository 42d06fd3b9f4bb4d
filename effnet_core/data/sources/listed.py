"""The pictures that a table lists: its columns, and where its paths lead."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from effnet_core.data.images import IMAGE_SUFFIXES
from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.finding import find_files, suffix_of
from effnet_core.data.sources.tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SPLIT_COLUMNS,
    Table,
    read_table,
)
from effnet_core.data.splits import SPLITS, TRAIN, split_in
from effnet_core.errors import DataError
from effnet_core.storage.addresses import require_name
from effnet_core.text import nearest

ROWS_TRIED = 50
"""Rows of a table that are looked at, to see whether it lists pictures that are there."""
MARKS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""What stands in a column of a class, in lower case, and whether the picture is of it."""
ENDINGS = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG", ".webp", ".tif", ".bmp", ".gif")


@dataclass(frozen=True)
class TableRules:
    """What people say about a table."""

    path_column: str | None = None
    label_column: str | None = None
    root: str | None = None
    """Folder that paths are relative to; the table's own when None."""


def usable_tables(
    base: Path,
    names: Iterable[str],
    rules: TableRules,
    *,
    root: Path | None = None,
    strict: bool = False,
) -> list[Table]:
    """The tables that list pictures and labels.

    Args:
        base: folder that ``names`` are relative to.
        names: paths of tables.
        rules: what people say about them.
        root: folder that paths are relative to, unless people say it; each table's own when None.
        strict: say what is wrong with one that does not, instead of leaving it out.

    Raises:
        DataError: one cannot be used, where ``strict``.
    """
    found = []
    for name in names:
        try:
            table = with_one_label(read_table(base / name), rules)
            if not table.rows:
                raise DataError(
                    f"{table.path} lists no images; add rows under the columns path and label"
                )
            _columns(table, rules)
        except DataError:
            if strict:
                raise
            continue
        if strict or _leads_somewhere(table, rules, root or table.path.parent):
            found.append(table)
    return found


def columns_of_listing(base: Path, name: str) -> tuple[str, ...]:
    """The columns of a table that lists pictures that are there, besides their paths; empty for another."""
    try:
        table = read_table(base / name)
    except DataError:
        return ()
    path = table.find(PATH_COLUMNS)
    rest = tuple(column for column in table.columns if column != path)
    return rest if path and _share_there(table, path, table.path.parent) >= 0.5 else ()


def _columns(table: Table, rules: TableRules) -> tuple[str, str]:
    """The columns of path and label; of two columns the one that is not the path is the label."""
    path = table.column(PATH_COLUMNS, "path", rules.path_column)
    rest = [name for name in table.columns if name != path]
    if rules.label_column is None and table.find(LABEL_COLUMNS) is None and len(rest) == 1:
        return path, rest[0]
    return path, table.column(LABEL_COLUMNS, "label", rules.label_column)


def with_one_label(table: Table, rules: TableRules) -> Table:
    """A table with a column of zeros and ones for each class, as one with a column of the class.

    A row that does not have exactly one class keeps the reason instead of its label.
    """
    path = rules.path_column or table.find(PATH_COLUMNS)
    if path not in table.columns or rules.label_column or table.find(LABEL_COLUMNS):
        return table
    kept = {path, table.find(SPLIT_COLUMNS)}
    marks = [name for name in table.columns if name not in kept]
    values = {_text(row.values.get(name)).lower() for row in table.rows for name in marks}
    if len(marks) < 2 or not values or not values <= MARKS.keys():
        return table
    rows = []
    for row in table.rows:
        chosen = [name for name in marks if MARKS[_text(row.values.get(name)).lower()]]
        label: str | NotOneLabel = chosen[0] if len(chosen) == 1 else NotOneLabel(chosen)
        rest = {name: row.values.get(name) for name in table.columns if name in kept}
        rows.append(replace(row, values={**rest, LABEL_COLUMNS[0]: label}))
    columns = [name for name in table.columns if name in kept]
    return Table(table.path, (*columns, LABEL_COLUMNS[0]), rows)


class NotOneLabel(list[str]):
    """The classes of a row that has none or several."""

    def __str__(self) -> str:
        if not self:
            return "no class (all its columns are 0)"
        return f"{len(self)} classes ({', '.join(self[:4])}); a picture must have one"


def _leads_somewhere(table: Table, rules: TableRules, root: Path) -> bool:
    path, label = _columns(table, rules)
    labelled = [
        row
        for row in table.rows[:ROWS_TRIED]
        if isinstance(row.values.get(label), NotOneLabel) or _text(row.values.get(label))
    ]
    root = Path(rules.root) if rules.root else root
    there = _share_there(replace(table, rows=labelled), path, root) * len(labelled)
    return 2 * there >= len(table.rows[:ROWS_TRIED])


def _share_there(table: Table, path: str, root: Path) -> float:
    """Share of the first rows whose pictures are there, 0-1."""
    places = Places(root)
    rows, split = table.rows[:ROWS_TRIED], split_in_or_none(table.path.stem)
    return sum(places.exists(_text(row.values.get(path)), split) for row in rows) / max(
        1, len(rows)
    )


def from_table(table: Table, root: Path, rules: TableRules, split: str = "") -> list[Candidate]:
    """The pictures that a table lists; a row that cannot be used costs one picture.

    Args:
        table: as it was read.
        root: folder that paths are relative to.
        rules: what people say about the table.
        split: of all rows; that of the column where empty.

    Raises:
        DataError: it names a split that nobody knows.
    """
    path_column, label_column = _columns(table, rules)
    split_column = table.find(SPLIT_COLUMNS)
    places, of_table = Places(root), split_in_or_none(table.path.stem)
    found: list[Candidate] = []
    seen: dict[str, str] = {}
    for row in table.rows:
        text, label = _text(row.values.get(path_column)), _text(row.values.get(label_column))
        label = unicodedata.normalize("NFC", label)
        given = _text(row.values.get(split_column)) if split_column else ""
        place = split or _split_of(given, table, row.number)
        problem, name = "", text
        try:
            if "\0" in text + label:
                name = ""
                raise ValueError("a null character")
            name = places.find(text, split_in_or_none(place) or of_table)
            if isinstance(row.values.get(label_column), NotOneLabel):
                raise ValueError(str(row.values[label_column]))
            if not label:
                raise ValueError("no label")
            if seen.get(name) == label:
                continue  # said twice
            if not os.path.lexists(root / name):
                raise ValueError(f"{text!r}, which is not there")
            if name in seen:
                raise ValueError(f"{text!r} a second time, as {label!r} and as {seen[name]!r}")
            seen[name] = label
        except ValueError as reason:
            problem = f"line {row.number} of {table.path.name} has {reason}"
        shown = f"{table.path}, line {row.number}: {text}" if problem else ""
        inner = name if not problem else f"line {row.number}"
        found.append(Candidate(root / name, place, label, inner, shown, problem))
    return sorted(
        found, key=lambda item: (item.split != TRAIN, item.split, item.class_name, item.inner)
    )


def split_in_or_none(name: str) -> str:
    """The split that a name holds; empty where it holds none or two."""
    try:
        return split_in(name)
    except DataError:
        return ""


class Places:
    """Where the paths of a table lead, which was often written on another machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self, text: str, split: str) -> bool:
        """Whether a path leads to a file."""
        try:
            return (self.root / self.find(text, split)).is_file()
        except ValueError:
            return False

    def find(self, text: str, split: str) -> str:
        """A path as it is below the root; the plain path where nothing is found.

        Raises:
            ValueError: it leads out of the root, or to several files; the text says why.
        """
        studio = re.search(r"/data/(?:local-files/\?d=|upload/(?:\d+/)?)(.+)$", text)
        plain = self._plain(studio[1] if studio else text)
        if self._is_file(plain):
            return require_name(plain)
        for name in self._elsewhere(plain):
            if self._is_file(name):
                return require_name(name)
        if found := self._by_name(plain, split):
            return found
        if plain.startswith("/"):
            raise ValueError(
                f"an absolute name that is not below {self.root} ({text!r}); say where the pictures are "
                "with data.table_root"
            )
        return self._required(plain, text)

    def _plain(self, text: str) -> str:
        if not text:
            raise ValueError("no path")
        text = re.sub(r"^(file|s3|gs|https?)://[^/]*", "", text)
        if "\\" in text and not (self.root / text).exists():
            text = re.sub(r"^[A-Za-z]:", "", text.replace("\\", "/"))
        text = re.sub(r"^(\./)+", "", text)
        return self._required(text, text) if not text.startswith("/") else text

    @staticmethod
    def _required(name: str, text: str) -> str:
        try:
            return require_name(name)
        except ValueError as reason:
            raise ValueError(f"{reason} ({text!r})") from None

    def _is_file(self, name: str) -> bool:
        return not name.startswith("/") and (self.root / name).is_file()

    def _elsewhere(self, plain: str) -> Iterable[str]:
        """Other spellings: with a suffix, without folders of another machine, decoded."""
        parts = plain.lstrip("/").split("/")
        if ".." in parts:
            return
        # A name alone, without the folder that was named with it, could be another picture's.
        tails = ["/".join(parts[start:]) for start in range(max(1, len(parts) - 1))]
        for tail in tails:
            yield tail
        if suffix_of(plain) not in IMAGE_SUFFIXES:
            for tail in tails:
                for ending in ENDINGS:
                    yield tail + ending
        if "%" in plain:
            yield unquote(tails[0])

    def _by_name(self, plain: str, split: str) -> str:
        """The one picture at any depth that has the name.

        Raises:
            ValueError: there are several.
        """
        folder, _, name = plain.rpartition("/")
        found = self._names.get(name, [])
        if folder:
            end = f"/{folder.rpartition('/')[2]}/"
            found = [path for path in found if f"/{path.rpartition('/')[0]}/".endswith(end)]
        if len(found) > 1 and split:
            found = [path for path in found if split_in_or_none(path.partition("/")[0]) == split]
        if len(found) > 1:
            raise ValueError(f"{plain!r}, which could be {found[0]} or {found[1]}")
        return found[0] if found else ""

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Paths of pictures by name, with and without suffix."""
        names: dict[str, list[str]] = defaultdict(list)
        try:
            pictures = find_files(self.root).pictures
        except OSError:
            return names
        for path in pictures:
            name = path.rpartition("/")[2]
            names[name].append(path)
            if (stem := name.rpartition(".")[0]) and stem != name:
                names[stem].append(path)
        return names


def _text(value: Any) -> str:
    if value is None or isinstance(value, (dict, list)):
        return ""
    return str(value).strip()


def _split_of(name: str, table: Table, number: int) -> str:
    if not name:
        return ""
    found = SPLITS.get(name.lower()) or split_in_or_none(name)
    if not found:
        raise DataError(
            f"{table.path} is refused: line {number} has the split {name!r}{nearest(name, SPLITS)} (known: "
            f"{', '.join(SPLITS)})"
        )
    return found
