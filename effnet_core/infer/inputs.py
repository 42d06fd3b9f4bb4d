"""What there is to label: folders, files, patterns, lists and buckets, as one list of paths.

``input_sources.py`` reads what the list names, ``input_lists.py`` the lists that people write.
"""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import DataError, OutputExists
from effnet_core.infer.readers import S3_SCHEME
from effnet_core.text import os_reason


@dataclass(frozen=True)
class InputList:
    """Files to label, in the order of the answers."""

    root: str
    """Absolute folder or ``s3://`` address that the paths are relative to."""
    paths: tuple[str, ...]
    stamps: tuple[str, ...]
    """For each file something that changes with its content: size and time, or the etag."""


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
            ``.parquet`` with a column ``path``; files or objects) or ``s3://bucket/prefix``, or any
            number of files. Of a folder every visible file counts, images or not.
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
    paths = read_list(file)
    remote = [path for path in paths if path.startswith(S3_SCHEME)]
    if remote and len(remote) < len(paths):
        raise DataError(
            f"list {file} names objects such as {remote[0]} and files; make a list of each"
        )
    if remote:
        root = os.path.commonprefix(paths)  # noqa: RUF071 - of objects' names, cut at a slash below
        root = root[: root.rfind("/") + 1]
        paths = [path.removeprefix(root) for path in paths]
        _refuse_twice(file, paths)
        return InputList(root, tuple(paths), ("",) * len(paths))
    base = str(file.absolute().parent)
    absolute = [os.path.normpath(os.path.join(base, path)) for path in paths]
    _refuse_twice(file, absolute)
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return _listed(root, [os.path.relpath(path, root) for path in absolute])


def _refuse_twice(file: Path, paths: Sequence[str]) -> None:
    """Refuse a list that names the same file again, however it is spelled."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise DataError(f"list {file} names {path} more than once")
        seen.add(path)


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
    if not found and (single := _one_object(url, storage)):
        return single
    if not found:
        raise DataError(f"input {root} has no objects")
    return InputList(root, tuple(path for path, _ in found), tuple(etag for _, etag in found))


def _one_object(url: str, storage: StorageConfig) -> InputList | None:
    """The address of an object instead of a prefix, as a list of one."""
    from effnet_core.storage.addresses import parse_s3
    from effnet_core.storage.objects import head_object

    place = parse_s3(url)
    facts = head_object(place, storage.access) if place.key and not url.endswith("/") else None
    if facts is None:
        return None
    root, _, name = url.rpartition("/")
    return InputList(f"{root}/", (name,), (facts.etag,))


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
            raise DataError(f"entry {number} of list {file} is not a path: {path!r}")
    return paths


def _rows(file: Path, form: str) -> Iterator[Any]:
    if form == ".parquet":
        import pyarrow.parquet as pq

        yield from pq.read_table(file, columns=[PATH_COLUMN])[PATH_COLUMN].to_pylist()
        return
    # Editors of Windows put a mark before the first line, which is not part of its path.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        if form == ".txt":
            yield from (line.rstrip("\r\n") for line in stream if line.strip())
        elif form == ".csv":
            yield from (row[PATH_COLUMN] for row in csv.DictReader(stream))
        else:
            yield from (json.loads(line)[PATH_COLUMN] for line in stream if line.strip())
