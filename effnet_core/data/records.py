"""Splits of a staged data set as MindRecord files: many images in few files, in manifest order.

DATA/records/SPLIT/
  00000.mindrecord, .db    images (encoded as staged) and labels, and MindSpore's index of them
  records.json             digest of the data set, names of the files; there only when all is written

The files of ``images/`` stay what counts: records are made of them, once, when they are first wanted
(``data.format=mindrecord``), and again when the data set has changed. See docs/adr/0013.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from effnet_core.config.schema import DataConfig
from effnet_core.data.manifest import Dataset, Split, open_dataset, read_manifest
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.system.files import (
    read_json,
    refuse_os_errors,
    require_space,
    usual_mode,
    write_json,
)
from effnet_core.system.locks import alone
from effnet_core.text import os_reason

TOPIC = "records"
RECORDS_NAME = "records"
FACTS_NAME = "records.json"
FILE_BYTES = 1 << 30
"""Images of one file; MindSpore asks for fewer than a thousand files."""
EMPTY_BYTES = 64 << 20
"""What a file takes besides its images: its header and the rest of its last page."""
ROWS = 64
"""Images that are handed to MindSpore at once."""
EVENT_EVERY = 1000

SCHEMA = {"image": {"type": "bytes"}, "label": {"type": "int32"}}


def split_as(dataset: Dataset, name: str, config: DataConfig) -> Split:
    """A split to be read as ``data.format`` says.

    Raises:
        DataError: there is no such split, or it has no records.
    """
    split = dataset.split(name)
    if config.format == "folder":
        return split
    files = record_files(dataset, name)
    if not files:
        raise DataError(
            f"{dataset.root} has no records of split {name!r} (data.format=mindrecord); run the same command "
            "again, or set data.format=folder"
        )
    return replace(split, records=files)


def record_files(dataset: Dataset, split: str) -> tuple[Path, ...]:
    """The record files of a split, in the order of their images; empty where there are none of this data."""
    folder = dataset.root / RECORDS_NAME / split
    if not (folder / FACTS_NAME).exists():
        return ()
    facts = read_json(folder / FACTS_NAME)
    files = tuple(folder / name for name in facts["files"])
    whole = facts["digest"] == dataset.digest and all(path.exists() for path in files)
    return files if whole else ()


def write_records(data_dir: Path, split: str) -> dict[str, Any]:
    """Write the records of a split, whole or not at all; needs MindSpore in this process.

    Returns:
        ``images`` and ``files``, how many; ``files`` is 0 where another process had written them meanwhile.

    Raises:
        DataError: there is no room, the disk refuses, or an image is not as it was staged.
    """
    import pyarrow.compute as pc  # here: a tenth of every command's start, for one sum

    dataset = open_dataset(data_dir)
    columns = ["image_id", "path", "label", "size_bytes", "sha256"]
    table = read_manifest(data_dir, columns, filters=[("split", "=", split)])
    size = pc.sum(table["size_bytes"]).as_py()
    place = data_dir / RECORDS_NAME
    try:
        place.mkdir(exist_ok=True)
        with alone(place / split):
            if record_files(dataset, split):
                return {"images": len(table), "files": 0}
            work = place / f".{split}.part"
            shutil.rmtree(work, ignore_errors=True)  # of a writer that was killed
            require_space(place, size + EMPTY_BYTES * _files_for(size), what=f"{work}")
            work.mkdir()
            names = _write(dataset, table.to_pylist(), work)
            write_json(work / FACTS_NAME, {"digest": dataset.digest, "files": names})
            shutil.rmtree(place / split, ignore_errors=True)
            work.rename(place / split)
    except OSError as cause:
        raise refuse_os_errors(f"writing records of split {split!r}")(cause) from cause
    emit(Event(TOPIC, f"records: {place / split}, {len(table)} images", len(table), len(table)))
    return {"images": len(table), "files": len(names)}


def _files_for(size_bytes: int) -> int:
    return max(1, -(-size_bytes // FILE_BYTES))


def _write(dataset: Dataset, rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """Write images in the order of ``rows``, file after file; their names."""
    from mindspore.mindrecord import FileWriter

    names: list[str] = []
    for part in _parts(rows):
        path = folder / f"{len(names):05d}.mindrecord"
        writer = FileWriter(str(path), shard_num=1)
        writer.add_schema(SCHEMA, "encoded images and labels")
        for start in range(0, len(part), ROWS):
            writer.write_raw_data([_record(dataset, row) for row in part[start : start + ROWS]])
        writer.commit()
        for file in (path, path.with_name(f"{path.name}.db")):
            file.chmod(usual_mode())  # MindSpore lets only their owner read them
        names.append(path.name)
    return names


def _parts(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Runs of rows of about ``FILE_BYTES``."""
    part: list[dict[str, Any]] = []
    size = 0
    for done, row in enumerate(rows):
        if done % EVENT_EVERY == 0:
            emit(Event(TOPIC, done=done, total=len(rows)))
        if part and size + row["size_bytes"] > FILE_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += row["size_bytes"]
    yield part


def _record(dataset: Dataset, row: dict[str, Any]) -> dict[str, Any]:
    """One image with its label, after a look at its digest."""
    path = dataset.root / row["path"]
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise DataError(
            f"image {path} cannot be read ({os_reason(cause)}); stage the data set again"
        ) from cause
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise DataError(f"image {path} is not as it was staged; stage the data set again")
    return {"image": content, "label": row["label"]}
