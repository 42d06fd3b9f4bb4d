"""Whether a file can be trusted as far as to be loaded: nobody else may have put or changed it.

The rule of ssh for its keys, without an exception for home: the file, its folder and every folder above
belong to this user or to root, and nobody else may write to them; a group that is this user's alone is
nobody else. In a folder with the sticky bit, such as ``/tmp``, others may add files but not replace ours.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from effnet_core.errors import DataError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
OTHERS_ENTER = stat.S_IXGRP | stat.S_IXOTH


def require_own(path: Path, *, what: str, remedy: str) -> None:
    """Refuse a file or folder that somebody else may have put there or changed.

    Args:
        path: it, or where it will be.
        what: names it in the message.
        remedy: what else can be done, as the end of the message.

    Raises:
        DataError: it, or a folder above it, belongs to another user or can be written to by others.
    """
    place = path.resolve()
    open_to_others: Path | None = None
    for item in (place, *place.parents):
        try:
            facts = item.stat(follow_symlinks=False)
        except OSError:  # not there, or out of reach: whoever uses it will say so
            continue
        if facts.st_uid not in (0, os.geteuid()):
            raise DataError(
                f"{what} {path} is not used: {item} belongs to {_user(facts.st_uid)}, who could have put "
                f"anything there; {remedy}"
            )
        is_folder = stat.S_ISDIR(facts.st_mode)
        if is_folder and not facts.st_mode & OTHERS_ENTER:
            open_to_others = None  # nobody else reaches what is below
        others = stat.S_IWOTH if is_private_group(facts.st_gid) else OTHERS_WRITE
        if facts.st_mode & others and not (is_folder and facts.st_mode & stat.S_ISVTX):
            open_to_others = open_to_others or item
    if open_to_others is not None:
        raise DataError(
            f"{what} {path} is not used: other users can write to {open_to_others}; "
            f"chmod go-w it if you trust what is in it, or {remedy}"
        )


def is_private_group(gid: int) -> bool:
    """Whether a group is this user's alone, as Linux distributions make one for each person.

    There new folders may be writable for the group by default, and that is nobody else.
    """
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    own = gid == user.pw_gid and group.gr_name == user.pw_name
    return gid != 0 and own and set(group.gr_mem) <= {user.pw_name}


def make_own_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name!r} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
