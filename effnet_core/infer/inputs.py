"""What there is to label: folders, files, patterns, lists and buckets, as one list of paths.

``readers.py`` reads what the list names.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effnet_core.config.schema import DataConfig, StorageConfig
from effnet_core.data.sources.archives import require_read
from effnet_core.data.sources.columns import Columns
from effnet_core.data.sources.finding import (
    HIDDEN,
    find_files,
    tell_apart,
    why_key_left_out,
    why_left_out,
    why_other_by_name,
)
from effnet_core.data.sources.members import Where
from effnet_core.errors import ConfigError, DataError, OutputExists
from effnet_core.infer.entries import Entry
from effnet_core.infer.lists import is_list, read_list, remote_root
from effnet_core.infer.packed import Packed, list_packed, packed_among, packed_files
from effnet_core.infer.web import is_web
from effnet_core.storage.addresses import S3_SCHEME, is_s3
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
    output: str | Path | None,
    *,
    recursive: bool = True,
    storage: StorageConfig | None = None,
    keep: Sequence[str] = (),
    data: DataConfig | None = None,
) -> InputList:
    """What there is to label.

    Args:
        inputs: one folder, pattern (``photos/*.jpg``), list of paths or addresses (``.txt``, or ``.csv``,
            ``.jsonl``, ``.parquet`` with a column ``path``) or ``s3://bucket/prefix``; or any number of
            files, or of http(s) addresses. Of a folder or prefix every picture counts; other files are
            listed apart. Where it holds no pictures but archives, or tables that hold pictures, it is those
            that are in them.
        output: where answers will go, if anywhere; must not lie inside the folder.
        recursive: whether folders inside the folder count too.
        storage: how buckets are reached.
        keep: columns of a list or table that are carried through.
        data: what tables and archives need to know.

    Returns:
        The list, sorted, or in the order of a list of paths or of an archive.

    Raises:
        ConfigError: columns are asked of what has none.
        DataError: the input is missing, unreadable or empty.
        OutputExists: the output lies inside the input folder.
        StoreError: the bucket cannot be listed.
    """
    how = _How(recursive, storage or StorageConfig(), Columns(keep), data or DataConfig())
    texts = [str(item) for item in inputs]
    found = _list(texts, output, how)
    if keep and not found.columns:
        raise ConfigError(
            f"infer.keep_columns={','.join(keep)} needs a list or a table with columns; {texts[0]} is none"
        )
    return found


@dataclass(frozen=True)
class _How:
    """What decides how inputs are listed."""

    recursive: bool
    storage: StorageConfig
    columns: Columns
    data: DataConfig


def _list(texts: Sequence[str], output: str | Path | None, how: _How) -> InputList:
    if texts and all(map(is_web, texts)):
        return _of_addresses(texts)
    if len(texts) != 1:
        packed = packed_files(texts)
        return _of_packed(packed, how) if packed else _of_files(texts)
    [text] = texts
    if text.startswith(S3_SCHEME):
        _require_outside(text, output)
        return _of_bucket(text, how)
    return _of_path(text, output, how)


def _of_path(text: str, output: str | Path | None, how: _How) -> InputList:
    """What a path of this machine, or a pattern, stands for."""
    path = Path(text)
    if path.is_dir():
        if _is_inside(output, path):
            raise OutputExists(
                f"output folder {output} lies inside the input folder {path}; choose another"
            )
        return _of_folder(path, how)
    if path.exists():
        if packed := packed_files([text]):
            return _of_packed(packed, how)
        require_read(text)
        return _of_list(path, how) if is_list(path) else _of_files([text])
    if glob.has_magic(text):
        found = [
            name
            for name in glob.iglob(text, recursive=how.recursive)
            if not os.path.isdir(name) and not _is_left_out(name)
        ]
        if not found:
            raise DataError(f"no file fits the pattern {text}")
        packed = packed_files(found)
        return _of_packed(packed, how) if packed else _of_files(found)
    raise DataError(f"input {text} does not exist")


def _is_inside(output: str | Path | None, folder: Path) -> bool:
    if output is None or is_s3(str(output)):
        return False
    return Path(output).resolve().is_relative_to(folder.resolve())


def _require_outside(prefix: str, output: str | Path | None) -> None:
    """Refuse an output below the prefix that is read."""
    if f"{output}/".startswith(f"{prefix.rstrip('/')}/"):
        raise OutputExists(f"output {output} lies inside the input {prefix}; choose another")


def _of_packed(packed: Packed, how: _How) -> InputList:
    found = list_packed(packed, how.storage, how.columns, how.data.names_encoding)
    columns, kept = _carried(how.columns, found.kept)
    return InputList(
        packed.root,
        tuple(found.paths),
        tuple(found.stamps),
        tuple(found.other),
        tuple(found.left_out),
        tuple(found.where),
        columns,
        kept,
    )


def _carried(
    columns: Columns, rows: Sequence[tuple[Any, ...]]
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[Any, ...], ...]]:
    """Names and types of what is carried through, and the values."""
    if not columns.names:
        return (), ()
    return tuple(zip(columns.names, columns.types, strict=True)), columns.typed(rows)


def _of_addresses(urls: Sequence[str]) -> InputList:
    root = remote_root(Path("of the command"), urls)
    paths = [url.removeprefix(root) for url in urls]
    _refuse_twice(Path("of the command"), paths)
    return InputList(root, tuple(paths), ("",) * len(paths))


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


def _of_folder(folder: Path, how: _How) -> InputList:
    root = folder.resolve()
    try:
        found = find_files(root, recursive=how.recursive)
    except OSError as cause:
        raise DataError(f"input folder {folder} cannot be read ({os_reason(cause)})") from cause
    if not found.pictures:
        names = [path for path, _ in found.other]
        if packed := packed_among(str(root), names, how.storage):
            return _of_packed(packed, how)
        for name in names:
            require_read(str(root / name))
        others = f" but {len(found.other):,} other file(s)" if found.other else ""
        raise DataError(f"input folder {folder} has no files that are pictures{others}")
    stamps = tuple(_stamp(f"{root}/{path}") for path in found.pictures)
    return InputList(
        str(root), tuple(found.pictures), stamps, tuple(found.other), tuple(found.left_out)
    )


def _of_list(file: Path, how: _How) -> InputList:
    """The paths in a list; relative ones are below the folder of the list."""
    listed = read_list(file, how.columns, path_column=how.data.path_column)
    columns, kept = _carried(how.columns, listed.kept)
    if root := remote_root(file, listed.paths):
        paths = [path.removeprefix(root) for path in listed.paths]
        _refuse_twice(file, paths)
        stamps = ("",) * len(paths)
        return InputList(root, tuple(paths), stamps, columns=columns, kept=kept)
    base = str(file.absolute().parent)
    absolute = [os.path.normpath(os.path.join(base, path)) for path in listed.paths]
    _refuse_twice(file, absolute)
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    found = _listed(root, [os.path.relpath(path, root) for path in absolute])
    if not kept:
        return found
    of_path = dict(zip((os.path.relpath(path, root) for path in absolute), kept, strict=True))
    some = tuple(of_path[path] for path in found.paths)
    return replace(found, columns=columns, kept=some)


def _refuse_twice(file: Path, paths: Sequence[str]) -> None:
    """Refuse a list that names the same file again, however it is spelled."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise DataError(f"list {file} names {path} more than once")
        seen.add(path)


def _listed(root: str, paths: Sequence[str]) -> InputList:
    """The files that were named, sorted by kind as those of a folder are."""
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


def _of_bucket(url: str, how: _How) -> InputList:
    from effnet_core.storage.objects import list_objects

    root = url if url.endswith("/") else f"{url}/"
    inside = len(root.removeprefix(S3_SCHEME).partition("/")[2])
    found: list[tuple[str, str]] = []
    other: list[tuple[str, str]] = []
    left_out: list[tuple[str, str]] = []
    for item in list_objects(root, how.storage.access):
        path = item.key[inside:]
        if not path or path.endswith("/") or ("/" in path and not how.recursive):
            continue
        if reason := why_key_left_out(path):
            left_out.append((path, reason))
        elif reason := why_other_by_name(path):
            other.append((path, reason))
        else:
            found.append((path, item.etag))
    if not found and (packed := packed_among(root, [path for path, _ in other], how.storage)):
        return _of_packed(packed, how)
    if not found and (single := _one_object(url, how)):
        return single
    if not found:
        others = f" that are pictures, but {len(other):,} other(s)" if other else ""
        raise DataError(f"input {root} has no objects{others}")
    paths, etags = zip(*found, strict=True)
    return InputList(root, paths, etags, tuple(other), tuple(left_out))


def _one_object(url: str, how: _How) -> InputList | None:
    """The address of an object instead of a prefix: a container, or a list of one."""
    from effnet_core.storage.addresses import parse_s3
    from effnet_core.storage.objects import head_object

    place = parse_s3(url)
    facts = head_object(place, how.storage.access) if place.key and not url.endswith("/") else None
    if facts is None:
        return None
    root, _, name = url.rpartition("/")
    if packed := packed_among(f"{root}/", [name], how.storage):
        return _of_packed(packed, how)
    return InputList(f"{root}/", (name,), (facts.etag,))
