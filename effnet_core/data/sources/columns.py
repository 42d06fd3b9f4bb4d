"""Columns of a person's table that are carried through to the answers, with types that all parts share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from effnet_core.errors import DataError
from effnet_core.storage.pieces import Pieces
from effnet_core.text import nearest

TYPES = ("int64", "float64", "bool", "string")
INT64 = 1 << 63


class Columns:
    """Some columns of tables, and the types that fit all of their values."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._kinds: list[set[type]] = [set() for _ in self.names]

    def require(self, table: str | Path, there: Sequence[str]) -> None:
        """Refuse a table that lacks one.

        Raises:
            DataError: with what it has.
        """
        for name in self.names:
            if name not in there:
                raise DataError(
                    f"{table} has no column {name!r} (infer.keep_columns){nearest(name, there)} (it has: "
                    f"{', '.join(there)})"
                )

    def take(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """The values of a row, as JSON has them."""
        values = tuple(_plain(row.get(name)) for name in self.names)
        for kinds, value in zip(self._kinds, values, strict=True):
            if value is not None:
                kinds.add(type(value))
        return values

    def read_parquet(self, pieces: Pieces) -> list[tuple[Any, ...]]:
        """The values of every row of a Parquet file.

        Raises:
            DataError: it lacks a column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pieces.stream() as stream, pq.ParquetFile(pa.PythonFile(stream, "r")) as file:
            self.require(pieces.name, file.schema_arrow.names)
            rows: list[tuple[Any, ...]] = []
            for batch in file.iter_batches(columns=list(self.names)):
                rows += [self.take(row) for row in batch.to_pylist()]
        return rows

    def typed(self, rows: Iterable[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
        """Rows whose values have the columns' types."""
        texts = [kind == "string" for kind in self.types]
        if not any(texts):
            return tuple(rows)
        return tuple(
            tuple(
                _as_text(value) if text else value for text, value in zip(texts, row, strict=True)
            )
            for row in rows
        )

    @property
    def types(self) -> tuple[str, ...]:
        """The type of each column by what was seen: mixed ones are texts."""
        return tuple(_type(kinds) for kinds in self._kinds)


def _type(kinds: set[type]) -> str:
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        return "int64"
    return "float64" if kinds and kinds <= {int, float} else "string"


def _plain(value: Any) -> Any:
    """A value as JSON has it; numbers that no int64 holds, dates and lists are texts."""
    if isinstance(value, int) and not -INT64 <= value < INT64:
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
