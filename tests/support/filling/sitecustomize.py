"""Fills a disk at a moment that a test has chosen: Python imports this by its name, from PYTHONPATH.

``FILL_DISK`` is the disk, ``FILL_AT`` the moment: a number, that of a file which is opened for writing on
this disk, counted over all processes, or a piece of such a file's path. ``FILL_COUNT`` is the file in which
they are counted.
"""

import fcntl
import os
import sys

DISK, AT, COUNT = (os.environ.get(f"FILL_{name}", "") for name in ("DISK", "AT", "COUNT"))
_busy: set[bool] = set()
"""Not empty while this hook opens files itself."""


def _fill() -> None:
    handle = os.open(f"{DISK}/filler", os.O_WRONLY | os.O_CREAT, 0o600)
    for size in (1 << 20, 4096, 1):
        try:
            while True:
                os.write(handle, bytes(size))
        except OSError:
            pass
    os.close(handle)


def _count(path: str) -> None:
    """Note an opening, and fill the disk when its turn has come."""
    handle = os.open(COUNT, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        number = 1 + os.pread(handle, 1 << 20, 0).count(b"\n")
        os.write(handle, f"{path}\n".encode(errors="backslashreplace"))
        if str(number) == AT or (not AT.isdigit() and AT in path):
            _fill()
    finally:
        os.close(handle)


def _look(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or _busy:
        return
    path, _, flags = arguments
    if not isinstance(path, str | bytes | os.PathLike) or not isinstance(flags, int):
        return
    if not flags & (os.O_WRONLY | os.O_RDWR):
        return
    place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - pathlib would open files of its own
    if place.startswith(DISK):
        _busy.add(True)
        try:
            _count(place)
        finally:
            _busy.clear()


if DISK:
    sys.addaudithook(_look)
