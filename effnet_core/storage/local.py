"""A store in a local folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from effnet_core.errors import Conflict, StoreBusy, StoreError
from effnet_core.storage.objects import patiently
from effnet_core.storage.store import PRIVATE_NAME, Entry, require_key
from effnet_core.system.files import atomic_path, usual_mode
from effnet_core.system.locks import turn
from effnet_core.text import os_reason

ABANDONED_S = 24 * 3600
"""Age at which a temporary file belongs to a process that is gone."""

_PASSING = (
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.EMFILE,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOLCK,
    errno.ENOTCONN,
    errno.ESTALE,
    errno.ETIMEDOUT,
)
"""What a network share or a loaded machine says for a while; the same call may succeed later."""

_WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LocalStore:
    """A store in a local folder: keys are paths below it, etags are SHA-256 of the content.

    New content is written under a temporary name, flushed to the disk, and then linked or renamed
    to its own under a lock that all processes of this machine share. Readers need no lock.
    """

    def __init__(self, root: Path) -> None:
        with _sentence(f"model store {root} cannot be used"):
            self.root = root.resolve()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def put_file(self, path: Path, key: str) -> None:
        """Store a file's content, over what was there."""
        target = self._path(key)
        with self._writing(key), self._temporary() as temporary:
            if not path.is_file():
                raise StoreError(f"file {path} does not exist, so it cannot be stored as {key}")
            shutil.copyfile(path, temporary)
            _flush(temporary)
            with self._lock():
                self._place(temporary, target)

    def get_file(self, key: str, path: Path) -> None:
        """Write an object's content to ``path``, whole or not at all."""
        source = self._existing(key)
        with (
            _sentence(f"{key} cannot be copied from model store {self.root} to {path}"),
            atomic_path(path) as temporary,
        ):
            shutil.copyfile(source, temporary)

    def put_bytes(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        """Store bytes, and return their etag.

        Raises:
            Conflict: the object exists (``if_none_match``), or is not the one that was read
                (``if_match``); nothing was changed.
        """
        if if_match is not None and if_none_match:
            raise ValueError("if_match and if_none_match exclude each other")
        target = self._path(key)
        with self._writing(key), self._temporary() as temporary:
            temporary.write_bytes(data)
            _flush(temporary)
            with self._lock():
                if if_match is not None:
                    self._require_unchanged(target, key, if_match)
                self._place(temporary, target, create_only=if_none_match)
        return _etag(data)

    def get_bytes(self, key: str) -> tuple[bytes, str]:
        """An object's content and etag."""

        def read() -> bytes:
            path = self._existing(key)
            with _sentence(f"{key} cannot be read from model store {self.root}"):
                return path.read_bytes()

        data = patiently(read)
        return data, _etag(data)

    def list(self, prefix: str) -> tuple[Entry, ...]:
        """Every object whose key starts with ``prefix``, sorted by key."""
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root

        def find() -> tuple[Entry, ...]:
            with _sentence(f"model store {self.root} cannot be listed"):
                if self.root.exists() and not self.root.is_dir():
                    raise StoreError(
                        f"model store {self.root} is a file; set storage.root to a folder"
                    )
                return tuple(sorted(self._entries(start, prefix), key=lambda entry: entry.key))

        return patiently(find)

    def head(self, key: str) -> Entry | None:
        """An object's size, or None where there is no such object."""
        path = self._path(key)

        def look() -> Entry | None:
            with _sentence(f"{key} cannot be read from model store {self.root}"):
                try:
                    found = path.stat()  # is_file() takes any refusal of the system for "no"
                except (FileNotFoundError, NotADirectoryError):
                    return None
            return Entry(key, found.st_size) if stat.S_ISREG(found.st_mode) else None

        return patiently(look)

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is not an error."""
        path = self._path(key)
        with self._writing(key):
            if path.is_file():
                with self._lock():
                    path.unlink(missing_ok=True)

    def sweep(self, older_than_s: float = ABANDONED_S) -> int:
        """Delete what killed writers left, and count it."""
        folder = self.root / PRIVATE_NAME / "tmp"
        with _sentence(f"model store {self.root} cannot be swept"):
            return _sweep(folder, older_than_s) if folder.is_dir() else 0

    def _path(self, key: str) -> Path:
        path = self.root / require_key(key)
        with _sentence(f"{key} cannot be used in model store {self.root}"):
            try:
                inside = path.resolve().is_relative_to(self.root)
            except RuntimeError:  # links that lead in a circle
                inside = False
        if not inside:
            raise StoreError(
                f"{key} leads out of model store {self.root} through a symbolic link; "
                "remove the link"
            )
        return path

    def _existing(self, key: str) -> Path:
        path = self._path(key)
        with _sentence(f"{key} cannot be read from model store {self.root}"):
            if not path.is_file():
                raise StoreError(f"model store {self.root} has no {key}")
        return path

    def _entries(self, start: Path, prefix: str) -> Iterator[Entry]:
        for folder, folders, names in os.walk(start, onerror=_raise_unless_missing):
            if Path(folder) == self.root and PRIVATE_NAME in folders:
                folders.remove(PRIVATE_NAME)
            for name in names:
                path = Path(folder, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and not path.is_symlink():
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        yield Entry(key, path.stat().st_size)

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        with _sentence(
            f"{key} cannot be written to model store {self.root}",
            remedy="; set storage.root to a folder that can be written to and has room",
        ):
            yield

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A file of the store's own file system that is gone after the block."""
        folder = self.root / PRIVATE_NAME / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder, ABANDONED_S)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other writers out: threads as well as processes, for a rename's time."""
        folder = self.root / PRIVATE_NAME
        folder.mkdir(parents=True, exist_ok=True)
        with turn(folder / "lock"):
            yield

    def _require_unchanged(self, target: Path, key: str, etag: str) -> None:
        found = _etag(target.read_bytes()) if target.is_file() else None
        if found != etag:
            now = f"has etag {found}" if found else "is gone"
            raise Conflict(
                f"{key} in model store {self.root} was changed by somebody else: it had etag "
                f"{etag}, now it {now}; read it again and decide anew"
            )

    def _place(self, temporary: Path, target: Path, *, create_only: bool = False) -> None:
        """Give flushed content its name; the lock is held."""
        temporary.chmod(usual_mode())
        target.parent.mkdir(parents=True, exist_ok=True)
        if create_only:
            self._create(temporary, target)
        else:
            temporary.replace(target)
        for folder in target.parents:  # the names, too, must outlive a power cut
            with suppress(OSError):
                _flush(folder)
            if folder == self.root:
                break

    def _create(self, temporary: Path, target: Path) -> None:
        try:
            os.link(temporary, target)
        except FileExistsError:
            self._refuse_second(target)
        except OSError as cause:
            if cause.errno not in _WITHOUT_LINKS:
                raise
            if target.exists():
                self._refuse_second(target)
            temporary.replace(target)  # no hard links here: the lock alone keeps others out

    def _refuse_second(self, target: Path) -> None:
        key = target.relative_to(self.root)
        raise Conflict(
            f"{key} exists already in model store {self.root} and is never overwritten; "
            "choose another name"
        )


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _flush(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(folder: Path, older_than_s: float) -> int:
    """Delete what killed processes left."""
    count = 0
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime >= older_than_s:
                path.unlink()
                count += 1
    return count


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _sentence(what: str, *, remedy: str = "") -> Iterator[None]:
    """Turn the system's refusal into a sentence that starts with ``what``."""
    try:
        yield
    except OSError as cause:
        if cause.errno in _PASSING:
            raise StoreBusy(f"{what} now ({os_reason(cause)}); try again later") from cause
        raise StoreError(f"{what} ({os_reason(cause)}){remedy}") from cause
