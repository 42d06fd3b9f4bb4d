"""Every file of a folder of this machine, links to folders included."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Walk:
    """What a folder holds at any depth."""

    files: list[str] = field(default_factory=list)
    """Paths below the root, sorted; a folder that cannot be listed is among them."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Paths that were not entered or taken, and why."""


def walk(
    root: Path, *, skip: Callable[[str, bool], str] = lambda *_: "", recursive: bool = True
) -> Walk:
    """Every file of a folder; links to folders are followed, each folder once and the real ones first.

    Args:
        root: the folder.
        skip: of a name, and whether it is a folder's, why it is left out; empty where it is not.
        recursive: whether folders inside count.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    found = Walk()
    start = os.path.realpath(root)
    seen = _above(start)  # a link to a folder above would bring the whole disk
    inside: list[str] = [""]
    links: list[str] = []
    while inside or links:
        if not inside:
            inside.append(link := links.pop(0))
            real = os.path.realpath(os.path.join(start, link))
            if _identity(real) in seen:
                found.left_out.append(
                    (link, "a link to a folder that is read already, or is above")
                )
                inside.clear()
                continue
            seen |= _above(real)
        here = inside.pop()
        seen.add(_identity(os.path.join(start, here)))
        try:
            entries = sorted(os.scandir(os.path.join(start, here)), key=lambda entry: entry.name)
        except OSError:
            if not here:
                raise
            found.files.append(here)  # reading it will tell the reason
            continue
        for entry in entries:
            path = os.path.join(here, entry.name)
            is_folder = _is_folder(entry)
            if reason := skip(entry.name, is_folder):
                found.left_out.append((path, reason))
            elif not is_folder:
                found.files.append(path)
            elif recursive:
                (links if entry.is_symlink() else inside).append(path)
    found.files.sort()
    found.left_out.sort()
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: str) -> tuple[int, int]:
    try:
        facts = os.stat(path)
    except OSError:
        return -1, hash(path)
    return facts.st_dev, facts.st_ino


def _above(path: str) -> set[tuple[int, int]]:
    """The folders that a folder lies in."""
    return {_identity(str(parent)) for parent in Path(path).parents}
