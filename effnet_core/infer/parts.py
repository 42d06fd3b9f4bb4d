"""Part files: the answers of one shard as Parquet, CSV or JSON Lines, in one file or in Hive's folders.

OUTPUT/predictions/part-00000-DIGEST.parquet              as a rule
OUTPUT/predictions/class=cat/part-00000-DIGEST.parquet    with ``infer.partition_by``
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from effnet_core.infer.answers import BEST, COLUMNS, LISTS, OPTIONAL_COLUMNS
from effnet_core.infer.pipeline import Prediction
from effnet_core.infer.plan import PARTS_NAME
from effnet_core.system.files import atomic_path

KINDS = {
    "image_id": pa.string(),
    "path": pa.string(),
    "class_ids": pa.list_(pa.int32()),
    "class_names": pa.list_(pa.string()),
    **dict.fromkeys(("probs", *OPTIONAL_COLUMNS), pa.list_(pa.float32())),
}
KEPT_TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""How Hive spells a partition without a value."""
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How cells begin that spreadsheets compute; quotes before it set these apart from ours."""


@dataclass(frozen=True)
class Kept:
    """Columns that are carried through to the answers."""

    columns: tuple[tuple[str, str], ...] = ()
    """Names and types."""
    values: tuple[tuple[Any, ...], ...] = ()
    """Of each row."""


NOTHING_KEPT = Kept()


def answers_table(
    rows: Sequence[Prediction], *, model_sha256: str, kept: Kept = NOTHING_KEPT
) -> pa.Table:
    """Answers as a table, one row an image."""
    own = [
        *COLUMNS,
        *(name for name in OPTIONAL_COLUMNS if rows and getattr(rows[0], name) is not None),
    ]
    fields = [(name, KINDS[name]) for name in own]
    values = [pa.array([getattr(row, name) for row in rows], KINDS[name]) for name in own]
    for place, (name, kind) in enumerate(kept.columns):
        fields.append((name, KEPT_TYPES[kind]))
        values.append(pa.array([row[place] for row in kept.values], KEPT_TYPES[kind]))
    table = pa.Table.from_arrays(values, schema=pa.schema(fields))
    return table.replace_schema_metadata({"model_sha256": model_sha256})


def write_part(
    path: Path, rows: Sequence[Prediction], *, model_sha256: str, kept: Kept = NOTHING_KEPT
) -> None:
    """Write the answers of one shard, in the form that the name of ``path`` says."""
    write_table(path, answers_table(rows, model_sha256=model_sha256, kept=kept))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of answers, in the form that the name of ``path`` says."""
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        elif path.suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, table.column_names)
                writer.writeheader()
                writer.writerows(_cells(row) for row in table.to_pylist())
        else:
            with temporary.open("w", encoding="utf-8") as stream:
                for row in table.to_pylist():
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as spreadsheets take it."""
    return {
        name: json.dumps(value, ensure_ascii=False)
        if name in LISTS
        else as_cell(value)
        if isinstance(value, str)
        else value
        for name, value in row.items()
    }


def as_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: one that begins like one gets a quote in front."""
    return f"'{text}" if _FORMULA.match(text) else text


def of_cell(cell: str) -> str:
    """The text of which ``as_cell`` made a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


# --- partitions ----------------------------------------------------------------------------------


def split(table: pa.Table, part: str, partition_by: str | None) -> Iterator[tuple[str, pa.Table]]:
    """The files of a shard's answers: names below ``predictions/``, and what is in them.

    A kept column that names partitions is not in the files, as is usual in Hive: whoever reads them finds
    it in the folders' names.
    """
    if partition_by is None:
        yield part, table
        return
    if partition_by == BEST:
        values = [names[0] for names in table["class_names"].to_pylist()]
    else:
        values = table[partition_by].to_pylist()
        table = table.drop_columns([partition_by])
    rows: dict[Any, list[int]] = {}
    for row, value in enumerate(values):
        rows.setdefault(value, []).append(row)
    for value, some in rows.items():
        yield f"{partition_by}={_spelled(value)}/{part}", table.take(some)


def _spelled(value: Any) -> str:
    """A value as the name of a folder, spelled as in a URL where it has to be."""
    if value is None or value == "":
        return NO_VALUE
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return quote(text, safe=" !#$&'()+,;@[]^`{}")


def partition_of(path: Path) -> dict[str, Any]:
    """The column and value that the folder of a part names; nothing for a part without one."""
    name, equals, value = path.parent.name.partition("=")
    if not equals or name == BEST:
        return {}
    return {name: None if value == NO_VALUE else unquote(value)}


# --- reading -------------------------------------------------------------------------------------


def read_parts(output: Path) -> list[dict[str, Any]]:
    """All predictions of a finished run, in input order, whatever form they have."""
    return list(iter_rows(output))


def iter_rows(output: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Predictions of a finished run one by one, in constant memory.

    They come in input order; in Hive's folders shard by shard, and inside a shard by folder.

    Args:
        output: folder of predictions.
        columns: what is wanted; everything when absent. Other columns may come too.
    """
    root = output / PARTS_NAME
    found = [*root.glob("part-*"), *root.glob("*=*/part-*")]
    for path in sorted(found, key=lambda path: (path.name, path.parent.name)):
        more = partition_of(path)
        for row in rows_of_part(path, columns):
            yield {**row, **more} if more else row


def rows_of_part(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one part file."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as part:
            for batch in part.iter_batches(columns=columns):
                yield from batch.to_pylist()
    elif path.suffix == ".jsonl":
        with path.open(encoding="utf-8", newline="\n") as stream:
            for line in stream:
                yield json.loads(line)
    else:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                yield {
                    key: json.loads(value) if key in LISTS else of_cell(value)
                    for key, value in row.items()
                }
