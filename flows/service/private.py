"""The state folder belongs to one user of the machine: nobody else reads what lies in it.

It holds the server's database with its blocks, the key that they are encrypted with, logs and the login.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

from effnet_core.errors import ConfigError, DataError
from effnet_core.system.files import make_folder
from effnet_core.text import os_reason

OTHERS = 0o077
"""Rights of everybody but the owner."""
LOGIN_NAME = "login"
USER = "effnet"


def private_folder(path: Path, *, what: str) -> Path:
    """Create ``path`` for this user alone, or take the rights of others away from it and all in it.

    Returns:
        The folder itself.

    Raises:
        DataError: it belongs to another user, its file system keeps no rights, or it cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    except OSError as cause:
        raise DataError(f"{what} {path} cannot be created ({os_reason(cause)})") from cause
    if found.st_uid != os.geteuid():
        raise DataError(
            f"{what} {path} belongs to user {found.st_uid}, who could read and change all that is "
            f"kept in it, and this is user {os.geteuid()}; choose another folder or mend its owner"
        )
    make_folder(path, what=what)
    _close(path)
    if path.stat().st_mode & OTHERS:
        raise DataError(
            f"{what} {path} stays readable for other users, because its file system keeps no rights; "
            "choose a folder on another disk"
        )
    if found.st_mode & OTHERS:
        text = (
            f"warning: {what} {path} was open to other users of this machine; it is private now. "
            "Change the secrets of your blocks if somebody may have read them"
        )
        print(text, file=sys.stderr)  # noqa: T201
    return path


def login_of(folder: Path, given: str | None = None) -> str:
    """The login of a state folder's servers as ``USER:PASSWORD``; made at the first call.

    Args:
        folder: private to this user.
        given: a login to take from now on, in place of what lies there.

    Raises:
        ConfigError: the given one is not of that form, or not ASCII.
    """
    path = folder / LOGIN_NAME
    if given is not None:
        if not given.isascii() or not given.isprintable() or not all(given.partition(":")):
            raise ConfigError(
                "the login in PREFECT_SERVER_API_AUTH_STRING is not of the form USER:PASSWORD in "
                "ASCII; correct or unset it"
            )
        path.unlink(missing_ok=True)
    if not path.exists():
        fresh = path.with_name(f".{LOGIN_NAME}.{secrets.token_hex(8)}")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(f"{given or f'{USER}:{secrets.token_urlsafe(32)}'}\n")
        with suppress(FileExistsError):  # another command was faster: its login counts
            path.hardlink_to(fresh)
        fresh.unlink()
    return path.read_text(encoding="ascii").strip()


def _close(folder: Path) -> None:
    """Take the rights of others away from a folder and all in it; links are not followed."""
    entries = [str(folder)]
    while entries:
        entry = entries.pop()
        with suppress(OSError):  # gone meanwhile, as a database's journal is
            mode = os.lstat(entry).st_mode
            if stat.S_ISLNK(mode):
                continue
            if mode & OTHERS:
                os.chmod(entry, stat.S_IMODE(mode) & ~OTHERS)  # noqa: PTH101
            if stat.S_ISDIR(mode):
                entries.extend(item.path for item in os.scandir(entry))
