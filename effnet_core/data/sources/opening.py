"""Where a data set comes from: a folder, a CSV file, archives, tar shards, ILSVRC2012, or a bucket of those.

What is not a plain folder is brought into one first, in a work folder beside the staged data set, each
step whole or absent, so that a cut run continues; then ``formats.py`` says what its files are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from effnet_core.data.images import IMAGE_SUFFIXES
from effnet_core.data.sources.archives import is_archive, members, require_read, stem, unpack
from effnet_core.data.sources.embedded import from_embedded, picture_column
from effnet_core.data.sources.finding import Found, find_files, suffix_of
from effnet_core.data.sources.formats import find_images
from effnet_core.data.sources.imagenet2012 import is_imagenet2012, unpack_imagenet2012
from effnet_core.data.sources.shards import LABEL_SUFFIXES, from_shards
from effnet_core.data.sources.tables import is_table
from effnet_core.data.sources.tree import DEFAULT_RULES, Labelled, Rules
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.storage.addresses import S3Url, is_s3, parse_s3, require_name, without_userinfo
from effnet_core.storage.client import DEFAULT_ACCESS, S3Access
from effnet_core.system.files import sha256_of_text
from effnet_core.text import os_reason

TOPIC = "stage"
MEMBERS_LOOKED_AT = 64
"""Members of an archive that are looked at, to see whether it is a shard of samples."""


class DatasetSource(Protocol):
    """A data set that is not staged yet."""

    @property
    def shown(self) -> str:
        """What people know it by."""
        ...

    def listing(self) -> str:
        """A digest of names, sizes and times or etags: equal means that nothing has changed."""
        ...

    def labelled(self, work: Path) -> Labelled:
        """Every file, sorted by kind; what is not on this machine is brought to ``work`` first."""
        ...


def open_source(
    source: str | Path, access: S3Access = DEFAULT_ACCESS, rules: Rules = DEFAULT_RULES
) -> DatasetSource:
    """The source at a path or an ``s3://`` address.

    Args:
        source: a folder, an archive, a table, or ``s3://bucket/prefix``.
        access: how to reach an object store.
        rules: what people say about it.

    Raises:
        ConfigError: the address is of no known kind.
        DataError: there is nothing there.
    """
    text = str(source)
    if is_s3(text):
        return BucketSource(parse_s3(text), access, rules)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise DataError(
            f"source {without_userinfo(text)!r} is of an unknown kind; give a folder, an archive "
            "(.tar, .tar.gz, .zip), a .csv file, or s3://bucket/prefix"
        )
    path = Path(source)
    try:
        there = path.exists()
    except OSError as cause:
        raise DataError(f"{path} cannot be read ({os_reason(cause)})") from cause
    if not there:
        raise DataError(f"data folder {path} does not exist")
    if path.is_file():
        require_read(str(path))
    if path.is_file() and not (is_table(path.name) or is_archive(path.name)):
        raise DataError(
            f"{path} is neither a folder nor an archive nor a table; give a folder, a .zip, .tar, "
            ".tar.gz, .tar.bz2, .tar.xz or .tar.zst file, a .csv, .tsv, .jsonl or .parquet file, or a .txt "
            "file with a path and a class on each line"
        )
    return LocalSource(path, rules)


@dataclass(frozen=True)
class LocalSource:
    """Files on this machine."""

    path: Path
    rules: Rules = DEFAULT_RULES

    @property
    def shown(self) -> str:
        """The path."""
        return str(self.path)

    def listing(self) -> str:
        """Digest of every file's path, size and time."""
        if self._is_packed:
            files = [self.path] if self.path.is_file() else _files(self.path)
            return sha256_of_text(*_facts((str(path), path) for path in files))
        labelled = self._labelled
        found = [
            (f"{item.path}\t{item.split}\t{item.class_name}", item.path)
            for item in labelled.candidates
        ]
        rest = [f"{path}\t{reason}" for path, reason in (*labelled.other, *labelled.left_out)]
        return sha256_of_text(*_facts(found), *rest)

    def labelled(self, work: Path) -> Labelled:
        """Every file, sorted by kind; archives are unpacked into ``work``."""
        return find_in(self.path, work, self.rules) if self._is_packed else self._labelled

    @cached_property
    def _labelled(self) -> Labelled:
        labelled = find_images(self.path, self.rules)
        return with_prefix(labelled, f"{self.path}/") if self.path.is_dir() else labelled

    @cached_property
    def _is_packed(self) -> bool:
        if self.path.is_file():
            return is_archive(self.path.name) or bool(picture_column(self.path))
        return is_imagenet2012(self.path) or bool(packed_in(self.path))


@dataclass(frozen=True)
class BucketSource:
    """Objects below a prefix of a bucket; one that is an archive is fetched alone."""

    place: S3Url
    access: S3Access
    rules: Rules = DEFAULT_RULES

    @property
    def shown(self) -> str:
        """The address."""
        return str(self.place)

    def listing(self) -> str:
        """Digest of every object's key, size and etag."""
        from effnet_core.storage.trees import list_tree

        found = list_tree(self._folder(), self.access)
        return sha256_of_text(*(f"{item.key}\t{item.size_bytes}\t{item.etag}" for item in found))

    def labelled(self, work: Path) -> Labelled:
        """Every file, sorted by kind, after all of them were fetched to ``work``."""
        from effnet_core.storage.trees import download_tree, folder_key, list_tree

        place = self._folder()
        found = list_tree(place, self.access)
        if is_archive(self.place.key):
            found = [item for item in found if item.key == self.place.key]
        if not found:
            raise DataError(f"{self.place} does not exist; correct the address")
        emit(Event(TOPIC, f"fetching {self.place}: {len(found):,} object(s)"))
        fetched = work / "fetched"
        download_tree(place, fetched, self.access, objects=found)
        root = fetched / self.place.key.rpartition("/")[2] if self._is_one_file() else fetched
        if not root.exists():
            raise DataError(f"{self.place} does not exist; correct the address")
        prefix = str(S3Url(place.bucket, folder_key(place)))
        packed = is_archive(self.place.key) or bool(packed_in(root))
        labelled = with_prefix(find_in(root, work, self.rules), "" if packed else prefix)
        labelled.candidates = [
            replace(
                item, shown=item.shown or f"{prefix}{item.path.relative_to(fetched).as_posix()}"
            )
            if item.path.is_relative_to(fetched)
            else item
            for item in labelled.candidates
        ]
        return labelled

    def _is_one_file(self) -> bool:
        return is_archive(self.place.key) or is_table(self.place.key)

    def _folder(self) -> S3Url:
        """The prefix that is listed: of an archive or table, the folder that it is in."""
        if not self._is_one_file():
            return self.place
        return S3Url(self.place.bucket, self.place.key.rpartition("/")[0])


def find_in(root: Path, work: Path, rules: Rules = DEFAULT_RULES) -> Labelled:
    """Every file of a folder or archive, sorted by kind; what is packed is unpacked into ``work``.

    Raises:
        DataError: an archive is refused, or the files are in no known form.
    """
    if root.is_dir() and is_imagenet2012(root):
        return find_images(unpack_imagenet2012(root, work / "imagenet2012"), rules)
    alone = root.is_file() and (is_archive(root.name) or bool(picture_column(root)))
    archives = [root.name] if alone else packed_in(root)
    if not archives:
        return find_images(root, rules)
    if alone:
        return _unpacked(root.parent, archives, work / "unpacked", rules)
    result = _unpacked(root, archives, work / "unpacked", rules)
    beside = find_files(root)
    result.other += [(path, reason) for path, reason in beside.other if path not in archives]
    result.left_out += beside.left_out
    return result


def _unpacked(root: Path, archives: list[str], unpacked: Path, rules: Rules) -> Labelled:
    """What archives, or tables that hold pictures, have inside."""
    if not is_archive(archives[0]):
        tables = [(_plain(path, root), root / path) for path in archives]
        return from_embedded(tables, unpacked, rules)
    names = [stem(path) for path in archives]
    if len(set(names)) < len(names):
        raise DataError(f"{root} has two archives that differ only in their suffix; rename one")
    shards = all(_is_shard(root / path) for path in archives)
    folders = []
    for done, (name, path) in enumerate(zip(names, archives, strict=True)):
        emit(Event(TOPIC, f"unpacking {path}", done, len(archives)))
        folder = unpacked / _plain(name, root)
        folders.append((name, unpack(root / path, folder, encoding=rules.names_encoding)))
    if shards:
        samples = from_shards(folders)
        if any(not item.problem for item in samples.candidates):
            return samples
    inside = unpacked if len(folders) > 1 else folders[0][1]
    try:
        labelled = find_images(inside, rules)
    except DataError as cause:
        known_as = root if len(folders) > 1 else root / archives[0]
        text = str(cause).replace(str(inside), str(known_as)).replace(str(unpacked), str(root))
        raise DataError(f"{text}{_hint(find_files(inside))}") from cause
    labelled.candidates = [
        replace(item, shown=item.shown or item.path.relative_to(unpacked).as_posix())
        for item in labelled.candidates
    ]
    return labelled


def _hint(found: Found) -> str:
    """What an archive without labels holds instead, as the end of a message; else empty."""
    inner = [path for path, _ in found.other if is_archive(path)]
    if inner and not found.pictures:
        return f". It holds archives ({', '.join(inner[:3])}); unpack it and give the folder"
    beside = sorted({suffix_of(path) for path, _ in found.other} - {""})
    if beside and found.pictures:
        ends = ", ".join(beside[:5])
        return (
            f". Beside its pictures lie files that end in {ends}; the class of KEY.jpg is read from "
            f"KEY{', KEY'.join(LABEL_SUFFIXES[:3])}"
        )
    return "" if found.pictures or found.other else ". It is empty"


def _plain(name: str, root: Path) -> str:
    """A name that a folder of ours can have."""
    try:
        return require_name(name)
    except ValueError as reason:
        raise DataError(f"{root} holds {name!r} with {reason}; rename it") from None


def with_prefix(labelled: Labelled, prefix: str) -> Labelled:
    """The same, with other files called by their whole paths."""
    labelled.other = [(prefix + path, reason) for path, reason in labelled.other]
    labelled.left_out = [(prefix + path, reason) for path, reason in labelled.left_out]
    return labelled


def packed_in(folder: Path) -> list[str]:
    """The archives, or tables that hold pictures, at any depth of a folder without pictures besides.

    Returns:
        Paths relative to the folder, all of one kind.

    Raises:
        DataError: the folder cannot be read, or holds an archive of a kind that is not read.
    """
    if not folder.is_dir():
        return []
    try:
        found = find_files(folder)
    except OSError as cause:
        raise DataError(f"folder {folder} cannot be read ({os_reason(cause)})") from cause
    if found.pictures:
        return []
    names = [path for path, _ in found.other]
    if archives := [path for path in names if is_archive(path)]:
        return archives
    if tables := [path for path in names if picture_column(folder / path)]:
        return tables
    for path in names:
        require_read(str(folder / path))
    return []


def _is_shard(archive: Path) -> bool:
    """Whether an archive holds samples: a picture and a file of the same key that names its class."""
    keys: dict[str, set[str]] = defaultdict(set)
    try:
        for number, (member, _) in enumerate(members(archive)):
            folder, slash, name = member.name.rpartition("/")
            key, _, extension = name.partition(".")
            keys[f"{folder}{slash}{key}"].add(f".{extension.lower()}")
            if number >= MEMBERS_LOOKED_AT:
                break
    except Exception:  # unpacking says what is wrong
        return False
    return any(found & IMAGE_SUFFIXES and found & set(LABEL_SUFFIXES) for found in keys.values())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _facts(found: Iterable[tuple[str, Path]]) -> Iterator[str]:
    for name, path in found:
        try:
            facts = path.stat()
        except OSError:
            yield f"{name}\tmissing"  # staging tells the reason
        else:
            yield f"{name}\t{facts.st_size}\t{facts.st_mtime_ns}"
