"""Where a data set comes from: a folder, a CSV file, archives, tar shards, ILSVRC2012, or a bucket of those.

What is not a plain folder is brought into one first, in a work folder beside the staged data set, each
step whole or absent, so that a cut run goes on; then ``formats.py`` says what its files are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from effnet_core.data.archives import is_archive, members, stem, unpack
from effnet_core.data.formats import Candidate, find_images, from_shards, visible
from effnet_core.data.imagenet2012 import is_imagenet2012, unpack_imagenet2012
from effnet_core.data.images import IMAGE_SUFFIXES
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.files import sha256_of_text
from effnet_core.storage.addresses import S3Url, is_s3, parse_s3, require_name, without_userinfo
from effnet_core.storage.client import DEFAULT_ACCESS, S3Access
from effnet_core.text import os_reason

STAGE = "stage"
SAMPLE_LABELS = (".cls", ".json")
MEMBERS_LOOKED_AT = 64
"""Of an archive, to see whether it is a shard of samples."""


class Source(Protocol):
    """A data set that is not staged yet."""

    @property
    def shown(self) -> str:
        """What people know it by."""
        ...

    def listing(self) -> str:
        """A digest of names, sizes and times or etags: equal means that nothing has changed."""
        ...

    def candidates(self, work: Path) -> list[Candidate]:
        """Every labelled file; what is not on this machine is brought to ``work`` first."""
        ...


def open_source(source: str | Path, access: S3Access = DEFAULT_ACCESS) -> Source:
    """The source at a path or an ``s3://`` address.

    Args:
        source: a folder, an archive, a CSV file, or ``s3://bucket/prefix``.
        access: how to reach an object store.

    Raises:
        ConfigError: the address is of no known kind.
        DataError: there is nothing there.
    """
    text = str(source)
    if is_s3(text):
        return BucketSource(parse_s3(text), access)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise DataError(
            f"source {without_userinfo(text)!r} is of an unknown kind; give a folder, an archive "
            "(.tar, .tar.gz, .zip), a .csv file, or s3://bucket/prefix"
        )
    path = Path(source)
    if not path.exists():
        raise DataError(f"data folder {path} does not exist")
    return LocalSource(path)


@dataclass(frozen=True)
class LocalSource:
    """Files on this machine."""

    path: Path

    @property
    def shown(self) -> str:
        """The path."""
        return str(self.path)

    def listing(self) -> str:
        """Digest of every file's path, size and time."""
        if self._is_packed() or self.path.is_file():
            files = [self.path] if self.path.is_file() else _files(self.path)
        else:
            files = []
        if self.path.suffix.lower() == ".csv" or not files:
            found = [(str(item.path), item.split, item.path) for item in self._found]
        else:
            found = [(str(path), "", path) for path in files]
        return sha256_of_text(*_facts(found))

    def candidates(self, work: Path) -> list[Candidate]:
        """Every labelled file; archives are unpacked into ``work``."""
        if (
            self.path.is_file()
            and self.path.suffix.lower() != ".csv"
            and not is_archive(self.path.name)
        ):
            raise DataError(
                f"{self.path} is neither a folder nor an archive nor a .csv file; give one of these"
            )
        return find_in(self.path, work) if self._is_packed() else self._found

    @cached_property
    def _found(self) -> list[Candidate]:
        return find_images(self.path)

    def _is_packed(self) -> bool:
        if self.path.is_file():
            return is_archive(self.path.name)
        return is_imagenet2012(self.path) or bool(archives_of(self.path))


@dataclass(frozen=True)
class BucketSource:
    """Objects below a prefix of a bucket; one that is an archive is fetched alone."""

    place: S3Url
    access: S3Access

    @property
    def shown(self) -> str:
        """The address."""
        return str(self.place)

    def listing(self) -> str:
        """Digest of every object's key, size and etag."""
        from effnet_core.storage.trees import list_tree

        found = list_tree(self._folder(), self.access)
        return sha256_of_text(*(f"{item.key}\t{item.size_bytes}\t{item.etag}" for item in found))

    def candidates(self, work: Path) -> list[Candidate]:
        """Every labelled file, after all of them were fetched to ``work``."""
        from effnet_core.storage.trees import download_tree, folder_key, list_tree

        place = self._folder()
        found = list_tree(place, self.access)
        if self._is_one_archive():
            found = [item for item in found if item.key == self.place.key]
        if not found:
            raise DataError(f"{self.place} does not exist; correct the address")
        emit(Event(STAGE, f"fetching {self.place}: {len(found):,} object(s)"))
        fetched = work / "fetched"
        download_tree(place, fetched, self.access, objects=found)
        root = fetched / self.place.key.rpartition("/")[2] if self._is_one_archive() else fetched
        prefix = str(S3Url(place.bucket, folder_key(place)))
        return [
            _renamed(item, f"{prefix}{item.path.relative_to(fetched).as_posix()}")
            if item.path.is_relative_to(fetched)
            else item
            for item in find_in(root, work)
        ]

    def _is_one_archive(self) -> bool:
        return is_archive(self.place.key)

    def _folder(self) -> S3Url:
        """The prefix that is listed: of an archive, the folder that it is in."""
        if not self._is_one_archive():
            return self.place
        return S3Url(self.place.bucket, self.place.key.rpartition("/")[0])


def find_in(root: Path, work: Path) -> list[Candidate]:
    """Every labelled file of a folder or archive; what is packed is unpacked into ``work``.

    Raises:
        DataError: an archive is refused, or the files are in no known form.
    """
    if root.is_dir() and is_imagenet2012(root):
        return find_images(unpack_imagenet2012(root, work / "imagenet2012"))
    archives = [root] if root.is_file() and is_archive(root.name) else archives_of(root)
    if not archives:
        return find_images(root)
    names = [stem(path.name) for path in archives]
    if len(set(names)) < len(names):
        raise DataError(f"{root} has two archives that differ only in their suffix; rename one")
    unpacked = work / "unpacked"
    shards = all(_is_shard(path) for path in archives)
    folders = []
    for done, (name, path) in enumerate(zip(names, archives, strict=True)):
        emit(Event(STAGE, f"unpacking {path.name}", done, len(archives)))
        folders.append((name, unpack(path, unpacked / require_name(name))))
    if shards:
        return from_shards(folders)
    return _named(find_images(_root_of(unpacked, folders)), unpacked)


def archives_of(folder: Path) -> list[Path]:
    """The archives of a folder that holds nothing else to be labelled."""
    if not folder.is_dir():
        return []
    found = visible(folder)
    if any(path.is_dir() for path in found):
        return []
    return [path for path in found if is_archive(path.name)]


def _is_shard(archive: Path) -> bool:
    """Whether an archive holds samples: images, and beside them files that name their class."""
    suffixes = set()
    try:
        for number, (member, _) in enumerate(members(archive)):
            suffixes.add("." + member.name.rpartition(".")[2].lower())
            if number >= MEMBERS_LOOKED_AT:
                break
    except Exception:  # unpacking says what is wrong
        return False
    return bool(suffixes & IMAGE_SUFFIXES) and bool(suffixes & set(SAMPLE_LABELS))


def _root_of(unpacked: Path, folders: list[tuple[str, Path]]) -> Path:
    """The folder of the classes: ``train.tar`` and ``val.tar`` lie side by side, one archive alone."""
    if len(folders) > 1:
        return unpacked
    root = folders[0][1]
    while True:  # a single folder around everything is packing, not a class
        inner = visible(root)
        if (
            len(inner) != 1
            or not inner[0].is_dir()
            or not any(p.is_dir() for p in visible(inner[0]))
        ):
            return root
        root = inner[0]


def _named(found: list[Candidate], base: Path) -> list[Candidate]:
    return [_renamed(item, item.path.relative_to(base).as_posix()) for item in found]


def _renamed(item: Candidate, shown: str) -> Candidate:
    return Candidate(item.path, item.split, item.class_name, item.inner, shown)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _facts(found: list[tuple[str, str, Path]]) -> Iterator[str]:
    for name, split, path in found:
        try:
            facts = path.stat()
        except FileNotFoundError:
            yield f"{name}\t{split}\tmissing"  # a table may list what is not there
        except OSError as cause:
            raise DataError(f"{path} cannot be read ({os_reason(cause)})") from cause
        else:
            yield f"{name}\t{split}\t{facts.st_size}\t{facts.st_mtime_ns}"
