"""The lists of paths that people and programs write: text, CSV, JSON Lines and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from effnet_core.errors import DataError
from effnet_core.files import os_reason

LIST_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
PATH_COLUMN = "path"
FORMS = {".csv": "CSV", ".jsonl": "JSON Lines", ".parquet": "Parquet", ".txt": "text"}


def read_list(file: Path) -> list[str]:
    """The paths that a list names, in its order.

    Args:
        file: a path a line (``.txt``), or with a column ``path`` (``.csv``, ``.jsonl``, ``.parquet``).

    Raises:
        DataError: the list cannot be read, or names no files.
    """
    form = file.suffix.lower()
    try:
        paths = list(_rows(file, form))
    except OSError as cause:
        raise DataError(f"list {file} cannot be read ({os_reason(cause)})") from cause
    except KeyError as cause:
        raise DataError(f"list {file} has no column {PATH_COLUMN!r}") from cause
    except (ValueError, TypeError, csv.Error) as cause:
        reason = " ".join(str(getattr(cause, "msg", cause)).split())[:200]
        raise DataError(f"list {file} is not valid {FORMS[form]} ({reason})") from cause
    if not paths:
        raise DataError(f"list {file} names no files")
    for number, path in enumerate(paths, 1):
        if not isinstance(path, str) or not path or "\0" in path:
            raise DataError(f"entry {number} of list {file} is no path: {path!r}")
    return paths


def _rows(file: Path, form: str) -> Iterator[Any]:
    if form == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(file, columns=[PATH_COLUMN])[PATH_COLUMN].to_pylist()
        return
    # Editors of Windows put a mark before the first line, which is no part of its path.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        if form == ".txt":
            yield from (line.rstrip("\r\n") for line in stream if line.strip())
        elif form == ".csv":
            yield from (row[PATH_COLUMN] for row in csv.DictReader(stream))
        else:
            yield from (json.loads(line)[PATH_COLUMN] for line in stream if line.strip())
