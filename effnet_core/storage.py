"""Where published files lie: a small interface, and its form for a local folder.

A store maps keys such as ``efficientnet/production.json`` to bytes. What more than one process may
write is written conditionally: create-only, or only if nobody changed it since it was read. The
interface is what S3 can do too (``If-None-Match``, ``If-Match``), so a bucket fits behind it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from effnet_core.errors import ConfigError, Conflict, StoreError
from effnet_core.files import atomic_path, os_reason

PRIVATE_NAME = ".effnet-store"
"""Folder of a local store for the lock and for files that are still being written; no key."""

KEY_BYTES = 1024
SEGMENT_BYTES = 255
"""Limits of S3 and of file systems; a key obeys both, so that stores can be copied."""

ABANDONED_S = 24 * 3600
"""Age at which a temporary file belongs to a process that is gone."""

_WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Entry:
    """One stored object."""

    key: str
    size_bytes: int


class Store(Protocol):
    """What publication needs of a place; each call is whole or has no effect.

    Every method raises ``StoreError`` for a key that is not allowed and for what the place refuses.
    """

    @property
    def uri(self) -> str:
        """Address that keys are relative to, without a slash at its end."""
        ...

    def put_file(self, path: Path, key: str) -> None:
        """Store a file's content, over what was there."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Write an object's content to ``path``, whole or not at all."""
        ...

    def put_bytes(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        """Store bytes.

        Args:
            key: where.
            data: what.
            if_match: etag that the object must still have.
            if_none_match: there must be no such object yet.

        Returns:
            The new etag.

        Raises:
            Conflict: the condition does not hold; nothing was changed.
        """
        ...

    def get_bytes(self, key: str) -> tuple[bytes, str]:
        """An object's content and etag."""
        ...

    def list(self, prefix: str) -> tuple[Entry, ...]:
        """Every object whose key starts with ``prefix``, sorted by key."""
        ...

    def head(self, key: str) -> Entry | None:
        """An object's size, or None where there is no such object."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...


def open_store(uri: str) -> Store:
    """The store at a path or ``file://`` address; it need not exist yet.

    Raises:
        ConfigError: the address is empty or of a kind that this version does not know.
    """
    if not uri.strip() or "\0" in uri:
        raise ConfigError(f"storage.root={uri!r} is no place; give a folder such as store")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", uri)
    if scheme is None:
        try:
            return LocalStore(Path(uri).expanduser())
        except RuntimeError as cause:
            raise ConfigError(
                f"storage.root={uri!r} names a home folder that is not known"
            ) from cause
    shown = re.sub(r"//[^/]*@", "//***@", uri)
    if scheme[1].lower() == "file":
        host, _, path = uri[scheme.end() - 1 :].removeprefix("//").partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(
                f"storage.root={shown!r} names the machine {host!r}, and this version supports "
                "local folders only; give a path such as store, or file:///srv/models"
            )
        if not path.strip("/"):
            raise ConfigError(
                f"storage.root={shown!r} is no absolute path; give one such as file:///srv/models"
            )
        return LocalStore(Path("/" + unquote(path)))
    if scheme[1].lower() == "s3":
        raise ConfigError(
            f"storage.root={shown!r} is a bucket, and this version supports local folders only; "
            "give a path such as store, or file:///srv/models"
        )
    raise ConfigError(
        f"storage.root={shown!r} has the unknown scheme {scheme[1]!r}; allowed are a path such as "
        "store, or file:///srv/models"
    )


def require_key(key: str) -> str:
    """``key`` itself, if it is one that every store accepts and that stays below its root.

    Raises:
        StoreError: it is not; the message says why.
    """
    reason = _objection(key)
    if reason:
        raise StoreError(
            f"key {key!r} is not allowed: {reason}; use names joined by single slashes, such as "
            "efficientnet/production.json"
        )
    return key


def _objection(key: str) -> str:
    """Why a key is not allowed, or an empty string."""
    try:
        segments = key.encode().split(b"/")
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    rules = (
        (key.startswith("/"), "it starts with a slash"),
        ("\\" in key, "it has a backslash"),
        (any(unicodedata.category(c) == "Cc" for c in key), "it has a control character"),
        (any(s in (b"", b".", b"..") for s in segments), "a segment is empty, '.' or '..'"),
        (segments[0] == PRIVATE_NAME.encode(), f"{PRIVATE_NAME} belongs to the store itself"),
        (len(key.encode()) > KEY_BYTES, f"it is longer than {KEY_BYTES} bytes"),
        (max(map(len, segments)) > SEGMENT_BYTES, f"a part is longer than {SEGMENT_BYTES} bytes"),
    )
    return next((reason for broken, reason in rules if broken), "")


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
        path = self._existing(key)
        with _sentence(f"{key} cannot be read from model store {self.root}"):
            data = path.read_bytes()
        return data, _etag(data)

    def list(self, prefix: str) -> tuple[Entry, ...]:
        """Every object whose key starts with ``prefix``, sorted by key."""
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        with _sentence(f"model store {self.root} cannot be listed"):
            if self.root.exists() and not self.root.is_dir():
                raise StoreError(f"model store {self.root} is a file; set storage.root to a folder")
            return tuple(sorted(self._entries(start, prefix), key=lambda entry: entry.key))

    def head(self, key: str) -> Entry | None:
        """An object's size, or None where there is no such object."""
        path = self._path(key)
        with _sentence(f"model store {self.root} cannot be read"):
            return Entry(key, path.stat().st_size) if path.is_file() else None

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        path = self._path(key)
        with self._writing(key):
            if path.is_file():
                with self._lock():
                    path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = self.root / require_key(key)
        with _sentence(f"{key} cannot be used in model store {self.root}"):
            inside = path.resolve().is_relative_to(self.root)
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
        _sweep(folder)
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
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)  # NFS wants it writable
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)  # and with it the lock

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
        temporary.chmod(0o644)
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


def _sweep(folder: Path) -> None:
    """Delete what killed processes left."""
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _sentence(what: str, *, remedy: str = "") -> Iterator[None]:
    """Turn the system's refusal into a sentence that starts with ``what``."""
    try:
        yield
    except OSError as cause:
        raise StoreError(f"{what} ({os_reason(cause)}){remedy}") from cause
