"""What there is to label: folders, files, patterns, lists and buckets, as one list of paths.

``readers.py`` reads what the list names.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.config.schema import StorageConfig
from effnet_core.data.sources.finding import (
    HIDDEN,
    find_files,
    tell_apart,
    why_key_left_out,
    why_left_out,
    why_other_by_name,
)
from effnet_core.data.sources.tables import PATH_COLUMNS, decode_text, read_table
from effnet_core.errors import DataError, OutputExists
from effnet_core.infer.entries import Entry, Where
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
    other: tuple[tuple[str, str], ...] = ()
    """Paths of files that are not pictures, and what they are."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Hidden names and what systems leave behind, and why."""
    where: tuple[Where, ...] = ()
    """Where each lies, where they are members of archives or rows of tables."""
    columns: tuple[tuple[str, str], ...] = ()
    """Names and types (``columns.py``) of what is carried through."""
    kept: tuple[tuple[Any, ...], ...] = ()
    """The values of those columns, for each file."""

    def entries(self) -> list[Entry]:
        """The files one by one."""
        nothing = ((),) * len(self.paths)
        rest = self.where or nothing, self.kept or nothing
        return list(map(Entry, self.paths, self.stamps, *rest))


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
            number of files. Of a folder every picture counts; other files are listed apart.
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
        found = [
            name
            for name in glob.iglob(text, recursive=recursive)
            if not os.path.isdir(name) and not _is_left_out(name)
        ]
        if not found:
            raise DataError(f"no file fits the pattern {text}")
        return _of_files(found)
    raise DataError(f"input {text} does not exist")


def _is_left_out(name: str) -> bool:
    """Whether a file that fits a pattern is in a folder that systems make."""
    return any(why_left_out(part, True) not in ("", HIDDEN) for part in Path(name).parts[:-1])


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
    root = folder.resolve()
    try:
        found = find_files(root, recursive=recursive)
    except OSError as cause:
        raise DataError(f"input folder {folder} cannot be read ({os_reason(cause)})") from cause
    if not found.pictures:
        others = f" but {len(found.other):,} other file(s)" if found.other else ""
        raise DataError(f"input folder {folder} has no files that are pictures{others}")
    stamps = tuple(_stamp(f"{root}/{path}") for path in found.pictures)
    return InputList(
        str(root), tuple(found.pictures), stamps, tuple(found.other), tuple(found.left_out)
    )


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
    """The files that were named, told apart as those of a folder are."""
    found = tell_apart(Path(root), paths)
    if not found.pictures:
        path, reason = found.other[0]
        raise DataError(f"{os.path.join(root, path)} is {reason}; give pictures")
    stamps = tuple(_stamp(os.path.join(root, path)) for path in found.pictures)
    return InputList(root, tuple(found.pictures), stamps, tuple(found.other))


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
    other: list[tuple[str, str]] = []
    left_out: list[tuple[str, str]] = []
    for item in list_objects(root, storage.access):
        path = item.key[inside:]
        if not path or path.endswith("/") or ("/" in path and not recursive):
            continue
        if reason := why_key_left_out(path):
            left_out.append((path, reason))
        elif reason := why_other_by_name(path):
            other.append((path, reason))
        else:
            found.append((path, item.etag))
    if not found and (single := _one_object(url, storage)):
        return single
    if not found:
        others = f" that are pictures, but {len(other):,} other(s)" if other else ""
        raise DataError(f"input {root} has no objects{others}")
    paths, etags = zip(*found, strict=True)
    return InputList(root, paths, etags, tuple(other), tuple(left_out))


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


LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


def read_list(file: Path) -> list[str]:
    """The paths that a list names, in its order.

    Args:
        file: a path a line (``.txt``), or a table with a column ``path`` or of another usual name.

    Raises:
        DataError: the list cannot be read, or names no files.
    """
    if file.suffix.lower() == ".txt":
        paths: list[Any] = _read_lines(file)
    else:
        table = read_table(file)
        if not table.rows:
            raise DataError(f"list {file} names no files")
        column = table.column(PATH_COLUMNS, "path", None)
        paths = [row.values.get(column) for row in table.rows]
    if not paths:
        raise DataError(f"list {file} names no files")
    for number, path in enumerate(paths, 1):
        if not isinstance(path, str) or not path or "\0" in path:
            raise DataError(f"entry {number} of list {file} is not a path: {path!r}")
    return paths


def _read_lines(file: Path) -> list[str]:
    try:
        content = file.read_bytes()
    except OSError as cause:
        raise DataError(f"list {file} cannot be read ({os_reason(cause)})") from cause
    try:
        text = decode_text(content, fallback=None)
    except UnicodeDecodeError:  # names that are not UTF-8 stay what they are
        text = os.fsdecode(content)
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]
