"""What there is to label: folders, files, patterns, lists and buckets, as one list of paths.

A ``Source`` reads what the list names. It is opened again from its root in every process that needs it.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from effnet_core.config import StorageConfig
from effnet_core.data.images import ImageProblem, read_bytes
from effnet_core.errors import DataError, OutputExists
from effnet_core.files import os_reason

LIST_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
PATH_COLUMN = "path"
S3_SCHEME = "s3://"
LOCAL_READERS, REMOTE_READERS = 2, 16


class Source(Protocol):
    """Where images are read from."""

    readers: int
    """Threads that are worth having."""

    def read(self, path: str) -> bytes:
        """The content of one file.

        Raises:
            ImageProblem: this file cannot be read.
            StoreError: none can.
        """
        ...


@dataclass(frozen=True)
class InputList:
    """Files to label, in the order of the answers."""

    root: str
    """Absolute folder or ``s3://`` address that the paths are relative to."""
    paths: tuple[str, ...]
    stamps: tuple[str, ...]
    """Of each file something that changes with its content: size and time, or the etag."""


def list_inputs(
    inputs: Sequence[str | Path],
    output: Path,
    *,
    recursive: bool = True,
    storage: StorageConfig | None = None,
) -> InputList:
    """What there is to label.

    Args:
        inputs: one folder, pattern (``photos/*.jpg``), list of paths (``.txt``, or ``.csv``, ``.jsonl``,
            ``.parquet`` with a column ``path``) or ``s3://bucket/prefix``, or any number of files. Of a
            folder every visible file counts, images or not.
        output: where answers will go; must not lie inside the folder.
        recursive: whether folders inside the folder count too.
        storage: how buckets are reached.

    Returns:
        The list, sorted, or in the order of a list of paths.

    Raises:
        DataError: the input is missing, unreadable or empty.
        OutputExists: the output lies inside the input folder.
        StoreError: the bucket cannot be listed.
    """
    texts = [str(item) for item in inputs]
    if len(texts) > 1 or not texts:
        return _of_files(texts)
    [text] = texts
    if text.startswith(S3_SCHEME):
        return _of_bucket(text, recursive=recursive, storage=storage or StorageConfig())
    path = Path(text)
    if path.is_dir():
        if output.resolve().is_relative_to(path.resolve()):
            raise OutputExists(
                f"output folder {output} lies inside the input folder {path}; choose another"
            )
        return _of_folder(path, recursive=recursive)
    if path.exists():
        return _of_list(path) if path.suffix.lower() in LIST_SUFFIXES else _of_files([text])
    if glob.has_magic(text):
        found = [name for name in glob.iglob(text, recursive=recursive) if not os.path.isdir(name)]
        if not found:
            raise DataError(f"no file fits the pattern {text}")
        return _of_files(found)
    raise DataError(f"input {text} does not exist")


def open_source(root: str, storage: StorageConfig) -> Source:
    """What reads the paths of an ``InputList`` with this root."""
    if root.startswith(S3_SCHEME):
        return BucketSource(root, storage)
    return FolderSource(Path(root))


class FolderSource:
    """Files below a folder."""

    readers = LOCAL_READERS

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes:
        """As ``Source.read``; never waits for a pipe or device."""
        whole = self.root / path
        try:
            kind = whole.stat().st_mode
        except OSError as cause:
            raise ImageProblem(os_reason(cause)) from cause
        if stat.S_ISDIR(kind):
            raise ImageProblem("folder that cannot be listed")
        if not stat.S_ISREG(kind):
            raise ImageProblem("not a regular file")
        return read_bytes(whole)


class BucketSource:
    """Objects below a prefix."""

    readers = REMOTE_READERS

    def __init__(self, root: str, storage: StorageConfig) -> None:

        self.root = root
        self.access = storage.access

    def read(self, path: str) -> bytes:
        """As ``Source.read``."""
        from effnet_core.storage.objects import read_object

        return read_object(self.root + path, self.access)


def _of_files(names: Sequence[str]) -> InputList:
    for name in names:
        if not os.path.lexists(name):
            raise DataError(f"input {name} does not exist")
        if os.path.isdir(name):
            raise DataError(
                f"give one folder or several files, not {len(names)} inputs with {name}"
            )
    absolute = sorted({os.path.abspath(name) for name in names})
    root = os.path.commonpath([os.path.dirname(name) for name in absolute])
    return _listed(root, [os.path.relpath(name, root) for name in absolute])


def _of_folder(folder: Path, *, recursive: bool) -> InputList:
    try:
        paths = sorted(_walk(str(folder.resolve()), recursive=recursive))
    except OSError as cause:
        raise DataError(f"input folder {folder} cannot be read ({os_reason(cause)})") from cause
    if not paths:
        raise DataError(f"input folder {folder} has no files")
    return _listed(str(folder.resolve()), paths)


def _walk(root: str, *, recursive: bool) -> Iterator[str]:
    """Relative paths of all visible files; linked folders are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        here = os.path.join(root, inside)
        facts = os.stat(here)
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        try:
            entries = list(os.scandir(here))
        except OSError:
            if not inside:
                raise
            yield inside  # reading it will tell the reason
            continue
        for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
            if entry.name.startswith("."):
                continue
            path = os.path.join(inside, entry.name)
            if not entry.is_dir():
                yield path
            elif recursive:
                waiting.append(path)


def _of_list(file: Path) -> InputList:
    """The paths in a list; relative ones are below the folder of the list."""
    try:
        paths = list(_rows(file))
    except (OSError, ValueError, KeyError) as cause:
        reason = os_reason(cause) if isinstance(cause, OSError) else f"no column {PATH_COLUMN!r}"
        raise DataError(f"list {file} cannot be read ({reason})") from cause
    if not paths:
        raise DataError(f"list {file} names no files")
    if len(set(paths)) < len(paths):
        twice = next(path for index, path in enumerate(paths) if path in paths[:index])
        raise DataError(f"list {file} names {twice} more than once")
    base = str(file.absolute().parent)
    absolute = [os.path.normpath(os.path.join(base, path)) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return _listed(root, [os.path.relpath(path, root) for path in absolute])


def _rows(file: Path) -> Iterator[str]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(file, columns=[PATH_COLUMN])[PATH_COLUMN].to_pylist()
        return
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        if file.suffix == ".txt":
            yield from (line.rstrip("\r\n") for line in stream if line.strip())
        elif file.suffix == ".csv":
            yield from (row[PATH_COLUMN] for row in csv.DictReader(stream))
        else:
            yield from (json.loads(line)[PATH_COLUMN] for line in stream if line.strip())


def _listed(root: str, paths: Sequence[str]) -> InputList:
    return InputList(root, tuple(paths), tuple(_stamp(os.path.join(root, p)) for p in paths))


def _stamp(path: str) -> str:
    try:
        facts = os.stat(path)
    except OSError:
        return ""
    return f"{facts.st_size}-{facts.st_mtime_ns}"


def _of_bucket(url: str, *, recursive: bool, storage: StorageConfig) -> InputList:
    from effnet_core.storage.objects import list_objects

    root = url if url.endswith("/") else f"{url}/"
    inside = len(root.removeprefix(S3_SCHEME).partition("/")[2])
    found: list[tuple[str, str]] = []
    for item in list_objects(root, storage.access):
        path = item.key[inside:]
        hidden = any(part.startswith(".") for part in path.split("/"))
        if path and not path.endswith("/") and not hidden and (recursive or "/" not in path):
            found.append((path, item.etag))
    if not found:
        raise DataError(f"input {root} has no objects")
    return InputList(root, tuple(path for path, _ in found), tuple(etag for _, etag in found))
