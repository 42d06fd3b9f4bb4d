"""One user at a time: for a folder or a file that a command writes, and for work that is done once.

A lock is a file on which the kernel holds an exclusive ``flock``; it says who holds it, so that whoever
is kept out learns who has it. The kernel lets go of it when the last process that has it open is gone, so a
killed command leaves no lock behind, only a file that the next one takes over. Over NFS the server keeps
the lock, for all its clients. On a file system without locks the file's existence is the lock.
See docs/adr/0015-locks.md.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from effnet_core.errors import DataError, FolderInUse, JobError
from effnet_core.events import Event, emit
from effnet_core.system.files import LOCK_NAME, make_folder, remove_temporaries
from effnet_core.text import os_reason

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system answers that has no locks."""
IN_USE = (errno.EWOULDBLOCK, errno.EACCES, errno.EBADF)
"""What it answers while another process has the lock; the last: on NFS, the file of another person."""
ENDING_S = 20.0
"""How long the child processes of a killed holder, which keep its lock, may take to end."""
POLL_S = 0.1
SHORT_POLL_S = 0.001
TELL_AFTER_S = 1.0
KEPT_NAME = ".effnet-kept"
"""File in a temporary folder that an error tells people to look into."""
KEPT_S = 24 * 3600.0
"""How long such a folder stays; the next command that needs one like it removes it after that."""

_inherited: set[int] = set()
_changing = threading.Lock()


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, as the lock's file says."""

    host: str
    pid: int
    process: str
    """What tells the process from a later one of the same id: its namespace and its start."""
    started: str
    """Local time at which the lock was taken."""
    command: str

    @classmethod
    def this_process(cls) -> Owner:
        """This process, now."""
        # No further arguments: they may hold secrets.
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]])
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(socket.gethostname(), os.getpid(), _process_mark(os.getpid()), now, command)

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """The owner that a lock's file names; None where it names none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended; not known of other machines."""
        here, _, start = self.process.partition(" ")
        mine, _, now = _process_mark(self.pid).partition(" ")
        return self.host == socket.gethostname() and here == mine and start != now

    def __str__(self) -> str:
        return f"{self.command!r} (process {self.pid} on {self.host}, since {self.started})"


@contextmanager
def sole_user(folder: Path, *, what: str) -> Iterator[None]:
    """Keep a folder to this call until the block ends; a new one that stays empty is removed again.

    So are folders above it that were made for it and hold nothing else.

    What a killed user of the folder was writing there is removed. Child processes that get ``inherited()``
    keep the folder too, until the last of them has ended.

    Raises:
        FolderInUse: another call, of this or of another process, uses the folder now.
        DataError: as ``make_folder``, or the folder's lock cannot be taken.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder, what=what)
    try:
        with _kept(folder / LOCK_NAME, f"{what} {folder}"):
            remove_temporaries(folder)
            yield
    finally:
        with suppress(OSError):  # one that holds something ends it
            for path in new:
                path.rmdir()


@contextmanager
def sole_writer(file: Path, *, what: str) -> Iterator[None]:
    """Keep a file, and what is written beside it under its name, to this call until the block ends.

    Raises:
        FolderInUse: another call writes it now.
        DataError: the file's folder cannot be written to.
    """
    make_folder(file.parent, what=f"folder of the {what}")
    with _kept(_beside(file), f"{what} {file}"):
        remove_temporaries(file.parent, [file.name])
        yield


@contextmanager
def scratch_folder(purpose: str, *, beside: Path | None = None) -> Iterator[Path]:
    """A temporary folder of this call; it stays for a day where an error tells people to look into it.

    Those that killed commands have left are removed first, and those that have stayed long enough.

    Args:
        purpose: a word for its name.
        beside: a folder on whose file system it must be; the system's folder for such by default.

    Raises:
        DataError: it cannot be made.
    """
    try:
        parent = beside or Path(tempfile.gettempdir())
        prefix = f"{'.' if beside else ''}effnet-{purpose}-"
        _remove_scratch(parent, prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as cause:
        raise DataError(
            f"a temporary folder cannot be made ({os_reason(cause)}); make room, or set TMPDIR to another "
            "folder"
        ) from cause
    kept = False
    try:
        with sole_user(folder, what="temporary folder"):
            yield folder
    except JobError as error:
        kept = str(folder) in str(error) and _marked(folder)
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _marked(folder: Path) -> bool:
    """Whether a folder could be marked as one that stays for a while."""
    with suppress(OSError):
        (folder / KEPT_NAME).touch()
        return True
    return False


def _is_left(folder: Path) -> bool:
    """Whether a killed command left a temporary folder, or its time is over."""
    kept = folder / KEPT_NAME
    if kept.exists():
        return time.time() - kept.stat().st_mtime > KEPT_S
    return (folder / LOCK_NAME).exists()


def _remove_scratch(parent: Path, prefix: str) -> None:
    """Remove this person's temporary folders that are left and that no process has any more."""
    for folder in parent.glob(f"{prefix}*"):
        lock = folder / LOCK_NAME
        with suppress(OSError):
            facts = folder.stat(follow_symlinks=False)
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
                continue
            if not _is_left(folder):
                continue
            handle = _take(lock)
            if handle is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process makes ``path``, and keep others waiting meanwhile.

    Raises:
        OSError: the file beside ``path`` that is the lock cannot be written.
    """
    with turn(_beside(path)):
        yield


@contextmanager
def turn(lock: Path, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """As ``alone``, by the file that is the lock.

    Args:
        lock: the file.
        tell: is given a line about who is waited for, once that takes long; an event by default.

    Raises:
        OSError: the file cannot be written.
    """
    began, pause, reported = time.monotonic(), SHORT_POLL_S, False
    while (handle := _take(lock)) is None:
        if not reported and time.monotonic() - began > TELL_AFTER_S:
            reported = True
            (tell or _emit)(f"waiting for {_named(lock)}")
        time.sleep(pause)
        pause = min(2 * pause, POLL_S)
    with _holding(handle, lock):
        yield


@contextmanager
def some_of(
    locks: Sequence[Path], count: int, tell: Callable[[str], None] | None = None
) -> Iterator[list[int]]:
    """Hold ``count`` of several locks, the first that are free; wait until there are as many.

    Who waits holds none, so that nobody waits in a circle. Child processes that get ``inherited()`` keep
    the locks too, until the last of them has ended.

    Args:
        locks: files, of which none need exist.
        count: at most as many as ``locks``.
        tell: is given a line about who is waited for, once that takes long; an event by default.

    Returns:
        Positions in ``locks`` of those that are held.

    Raises:
        OSError: a file cannot be written.
    """
    began, reported = time.monotonic(), False
    while True:
        with ExitStack() as held:
            taken: list[int] = []
            for place, lock in enumerate(locks):
                if len(taken) < count and (handle := _take(lock)) is not None:
                    held.enter_context(_holding(handle, lock))
                    with _changing:
                        _inherited.add(handle)
                    taken.append(place)
            if len(taken) == count:
                yield taken
                return
            users = sorted({_named(lock) for place, lock in enumerate(locks) if place not in taken})
        if not reported and time.monotonic() - began > TELL_AFTER_S:
            reported = True
            (tell or _emit)(f"waiting for {' and '.join(users)}")
        time.sleep(POLL_S)


@contextmanager
def inherited() -> Iterator[tuple[int, ...]]:
    """Open files that are this process's locks on folders, for ``pass_fds`` inside the block.

    A child that has them open keeps the locks as well.
    """
    with _changing:
        yield tuple(_inherited)


@contextmanager
def _kept(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock that nobody waits for, but for the last processes of a holder that was killed."""
    try:
        handle = _take_soon(lock)
        if handle is None:
            raise FolderInUse(
                f"{what} is in use by {_named(lock)}; wait until that has ended, stop it, or choose "
                f"another{_hint(lock)}"
            )
    except OSError as cause:
        raise DataError(
            f"{what} cannot be locked ({os_reason(cause)}: {lock}); choose another"
        ) from cause
    with _holding(handle, lock):
        with _changing:
            _inherited.add(handle)
        yield


def _take_soon(lock: Path) -> int | None:
    """As ``_take``, and tried for a while where only child processes of a dead holder have the lock."""
    deadline = time.monotonic() + ENDING_S
    while (handle := _take(lock)) is None:
        owner = Owner.read(lock)
        if owner is None or not owner.is_gone() or time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)
    return handle


@contextmanager
def _holding(handle: int, lock: Path) -> Iterator[None]:
    """Remove a lock that was taken when the block ends."""
    try:
        yield
    finally:
        with _changing:
            _inherited.discard(handle)
            with suppress(OSError):
                if _is_at(handle, lock):
                    lock.unlink()  # before the lock is free: whoever waits sees that it is gone
            os.close(handle)


def _take(lock: Path) -> int | None:
    """A descriptor that holds a lock, or None while another one does."""
    while True:
        handle, is_new = _open(lock)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            if cause.errno not in (*IN_USE, *WITHOUT_LOCKS):
                os.close(handle)
                raise
            if cause.errno in IN_USE:
                os.close(handle)
                return None
            if not is_new:
                os.close(handle)
                if _remove_stale(lock):
                    continue
                return None
        if _is_at(handle, lock):
            _sign(handle)
            return handle
        os.close(handle)  # its holder removed the file meanwhile


def _open(lock: Path) -> tuple[int, bool]:
    """The lock's file, open, and whether this call made it."""
    # NFS gives exclusive locks only on files that are open for writing.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            return os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            pass
        except FileNotFoundError:
            lock.parent.mkdir(parents=True, exist_ok=True)  # removed by a user before, as empty
            continue
        try:
            return os.open(lock, flags), False
        except FileNotFoundError:
            continue
        except PermissionError:  # of another person; on a local file system it can still be locked
            return os.open(lock, flags & ~os.O_RDWR), False


def _is_at(handle: int, lock: Path) -> bool:
    """Whether an open file still has its name."""
    mine = os.fstat(handle)
    try:
        there = lock.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _sign(handle: int) -> None:
    """Say in the lock's file who holds it; on a full disk it says nothing."""
    text = json.dumps(asdict(Owner.this_process())) + "\n"
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def _remove_stale(lock: Path) -> bool:
    """Without kernel locks: remove the file of a process of this machine that has ended."""
    owner = Owner.read(lock)
    if owner is None or not owner.is_gone():
        return False
    aside = lock.with_name(f"{lock.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        lock.rename(aside)
        if Owner.read(aside) != owner:  # another one was faster, and this is its new lock
            os.link(aside, lock)
            return False
    except OSError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def _named(lock: Path) -> str:
    owner = Owner.read(lock)
    return str(owner) if owner else "another command that has not ended"


def _emit(line: str) -> None:
    emit(Event("wait", line))


def _hint(lock: Path) -> str:
    """What to do where a file that was left behind keeps everybody out."""
    handle, _ = _open(lock)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as cause:
        without = cause.errno in WITHOUT_LOCKS
        return f"; where it has ended already, delete {lock}" if without else ""
    finally:
        os.close(handle)
    return ""


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _process_mark(pid: int) -> str:
    """The namespace of this machine's process ids, and when the process of an id started."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = "?"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{namespace} gone"
    return f"{namespace} gone" if stat[0] == "Z" else f"{namespace} {stat[19]}"
