"""One user at a time: of a folder, of a file that is being made."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from effnet_core.errors import OutputExists
from effnet_core.files import make_folder


@contextmanager
def sole_user(folder: Path, *, what: str) -> Iterator[None]:
    """Keep a folder to this call until the block ends; a folder that stays empty is taken away again.

    A file system that knows no locks keeps nobody out.

    Raises:
        OutputExists: another call, of this or of another process, uses the folder now.
        DataError: as ``make_folder``.
    """
    new = not folder.exists()
    handle = os.open(make_folder(folder, what=what), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as cause:
        os.close(handle)
        raise OutputExists(
            f"{what} {folder} is in use by a run that has not ended; wait for it, stop it, or choose another"
        ) from cause
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)
        if new:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine makes ``path``, and keep others waiting meanwhile.

    Only saves work: files are renamed into place, so two that make the same one do no harm. Where the
    file system knows no locks, nobody waits.
    """
    with path.with_name(f".{path.name}.lock").open("w") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
