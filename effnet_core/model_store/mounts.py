"""Whether a store in a folder is still the one that was used: a share that is not mounted looks empty.

This machine notes where it last met a production version, and on which file system. A store that has none
now and lies on another one is a folder below which a share is missing. A store that somebody deleted lies
on the same one, so starting over needs no word.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from effnet_core.errors import StoreBusy
from effnet_core.system.files import read_json, sha256_of_text, write_json

STATE_VARIABLE = "XDG_STATE_HOME"


@dataclass(frozen=True)
class Met:
    """A production version that this machine has met."""

    store: str
    name: str
    version: str
    mounted_at: str
    """Where the store's file system is mounted."""
    device: str
    """What is mounted there: a disk, ``server:/export``."""
    at: str
    """Local time."""


def remember(root: Path, name: str, version: str) -> None:
    """Note that a model in a store has a production version; nothing is said where that cannot be kept."""
    mounted_at, device = _file_system(root)
    before = _met(root, name)
    if before and (before.version, before.mounted_at, before.device) == (
        version,
        mounted_at,
        device,
    ):
        return
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    met = Met(str(root), name, version, mounted_at, device, now)
    with suppress(OSError):
        write_json(_note(root, name), asdict(met))


def require_mounted(root: Path, name: str) -> None:
    """Refuse a store without production whose file system is not the one that had it.

    Raises:
        StoreBusy: it is another; the same call may succeed once the share is mounted.
    """
    before = _met(root, name)
    if before is None or _file_system(root) == (before.mounted_at, before.device):
        return
    raise StoreBusy(
        f"model store {root} has no production version of {name!r}, but had {before.version!r} on "
        f"{before.at}, on {before.device} mounted at {before.mounted_at}, which is not there now; mount it, "
        f"or delete {_note(root, name)} if the store has moved for good"
    )


def _met(root: Path, name: str) -> Met | None:
    with suppress(Exception):  # missing, damaged or of another version of this project
        return Met(**read_json(_note(root, name)))
    return None


def _note(root: Path, name: str) -> Path:
    base = Path(os.environ.get(STATE_VARIABLE) or "~/.local/state").expanduser()
    return base / "effnet" / "stores" / f"{sha256_of_text(str(root), name)[:24]}.json"


def _file_system(root: Path) -> tuple[str, str]:
    """Mount point and device of the file system that a folder is on, or would be made on."""
    inside = [
        (part.mountpoint, part.device)
        for part in psutil.disk_partitions(all=True)
        if root.is_relative_to(part.mountpoint)
    ]
    # Of several mounted at the same place, the last hides the others.
    return max(reversed(inside), key=lambda pair: len(pair[0]), default=("/", ""))
