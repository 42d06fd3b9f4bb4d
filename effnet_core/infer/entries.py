"""The files of a labelling, one JSON line each, read again from anywhere in the list.

A line is ``[path, stamp]``, and for members of archives and rows of tables also where they lie and the
values of the columns that are carried through: ``[path, stamp, where, kept]``.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effnet_core.data.sources.members import Where
from effnet_core.jobs.job import Shard
from effnet_core.system.files import atomic_path


class Entry(NamedTuple):
    """One file to label."""

    path: str
    stamp: str
    """Something that changes with its content."""
    where: Where = ()
    """Kind and name of its container, and the place in it; empty for a file of its own."""
    kept: tuple[Any, ...] = ()
    """Values of the columns that are carried through, in their order."""

    def line(self) -> str:
        """The entry as JSON."""
        plain = not self.where and not self.kept
        return json.dumps(self[:2] if plain else self)

    @classmethod
    def of_line(cls, line: str | bytes) -> Entry:
        """The entry of ``line``.

        Raises:
            ValueError: it is not one.
        """
        values = json.loads(line)
        if not isinstance(values, list) or len(values) not in (2, 4):
            raise ValueError("a line is not a path and a stamp")
        path, stamp, *rest = values
        if not isinstance(path, str) or not isinstance(stamp, str):
            raise ValueError("a line is not a path and a stamp")
        if not rest:
            return cls(path, stamp)
        where, kept = rest
        if not isinstance(where, list) or not isinstance(kept, list):
            raise ValueError("a line does not say where its file lies")
        return cls(path, stamp, tuple(where), tuple(kept))


def write_entries(path: Path, entries: Iterable[Entry]) -> Sequence[int]:
    """Write a list of files.

    Returns:
        Where each line begins, in bytes, and the size of the list.
    """
    places = array("Q", [0])
    at = 0
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for entry in entries:
            line = (entry.line() + "\n").encode()
            stream.write(line)
            at += len(line)
            places.append(at)
    return places


def iter_entries(path: Path) -> Iterator[Entry]:
    """Every entry of a list, in its order.

    Raises:
        ValueError: a line is damaged.
    """
    with path.open("rb") as stream:
        for line in stream:
            yield Entry.of_line(line)


def read_shard(path: Path, shard: Shard) -> list[Entry]:
    """The entries of one shard.

    Raises:
        ValueError: a line is damaged, or some are missing.
    """
    with path.open("rb") as stream:
        stream.seek(shard.begin)
        return parse_shard(stream.read(shard.end - shard.begin), shard)


def parse_shard(lines: bytes, shard: Shard) -> list[Entry]:
    """The entries of one shard from its lines.

    Raises:
        ValueError: a line is damaged, or some are missing.
    """
    found = [Entry.of_line(line) for line in lines.split(b"\n") if line]
    if len(found) != shard.stop - shard.start:
        raise ValueError(f"it has {len(found)} of {shard.stop - shard.start} files of a shard")
    return found
