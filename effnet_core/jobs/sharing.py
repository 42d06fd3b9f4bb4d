"""Memory that the ranks of one machine share, through which they average their gradients.

A collective of MindSpore's goes through sockets, also on one machine. Import only in a child process.
"""

from __future__ import annotations

import ctypes
import os
import secrets
from pathlib import Path

import numpy as np

from effnet_core.jobs.collective import Group

PREFIX = "effnet-"
TOKEN_BITS = 36  # what Group.sum_counts can carry


def join(library: Path | None, group: Group) -> Path | None:
    """Let the library's ``mean_over_ranks`` work for the ranks of ``group``; all must call this.

    The memory is a file without a name of rank 0's, so that nothing is left when all have ended, however
    they end. Ranks of another machine, or of another user, cannot open it.

    Args:
        library: as ``choice.library`` gave it to this rank; None where it has none.
        group: the ranks of the job.

    Returns:
        The library where all ranks share memory, else None on all of them.
    """
    if group.world_size == 1:
        return None
    token = secrets.randbits(TOKEN_BITS)
    operators = _loaded(library)
    file = -1
    if group.is_first and operators is not None:
        file = _create(token, operators.effnet_shared_bytes(group.world_size))
    try:
        offer = (os.getpid(), file, token) if file >= 0 else (0, 0, 0)
        process, number, token = group.sum_counts(np.array(offer, np.int64)).tolist()
        if process and operators is not None and not group.is_first:
            file = _open(process, number, token)
        joined = (
            operators is not None
            and file >= 0
            and operators.effnet_join_file(file, group.rank, group.world_size) == 0
        )
        all_joined = group.sum_counts(np.array([joined], np.int64))[0] == group.world_size
        return library if all_joined else None
    finally:
        if file >= 0:
            os.close(file)


def _loaded(library: Path | None) -> ctypes.CDLL | None:
    if library is None:
        return None
    operators = ctypes.CDLL(str(library))
    operators.effnet_shared_bytes.restype = ctypes.c_int64
    return operators


def _create(token: int, size: int) -> int:
    """A file in memory of so many zeros; -1 where there can be none."""
    try:
        file = os.memfd_create(f"{PREFIX}{token:x}")
    except (AttributeError, OSError):
        return -1
    try:
        os.posix_fallocate(file, 0, size)
    except OSError:
        os.close(file)
        return -1
    return file


def _open(process: int, number: int, token: int) -> int:
    """Rank 0's file; -1 where it is not to be seen from here."""
    path = Path(f"/proc/{process}/fd/{number}")
    try:
        if not str(path.readlink()).startswith(f"/memfd:{PREFIX}{token:x} "):
            return -1
        return os.open(path, os.O_RDWR)
    except OSError:
        return -1
