"""Whether what is to be written fits, asked before the first byte."""

from __future__ import annotations

import shutil
from pathlib import Path

from effnet_core.errors import DataError
from effnet_core.files import human_bytes

RESERVE_BYTES = 200_000_000
"""Left free for everything else on the disk."""


def require_space(folder: Path, size_bytes: int, *, what: str) -> None:
    """Refuse what does not fit on the disk of ``folder``, which need not exist yet.

    Raises:
        DataError: with the size of what is to be written and of what is free.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size_bytes > free - RESERVE_BYTES:
        raise DataError(
            f"{what} needs {human_bytes(size_bytes)}, but {folder} has {human_bytes(free)} free and "
            f"{human_bytes(RESERVE_BYTES)} of it are left for others; choose another folder or make room"
        )
