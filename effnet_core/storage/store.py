"""What a store is: a small interface, and the keys that every store accepts.

A store maps keys such as ``efficientnet/production.json`` to bytes. What more than one process may
write is written conditionally: create-only, or only if nobody changed it since it was read.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from effnet_core.errors import StoreError

PRIVATE_NAME = ".effnet-store"
"""Folder of a local store for the lock and for files that are still being written; no key."""

KEY_BYTES = 1024
SEGMENT_BYTES = 255
"""Limits of S3 and of file systems; a key obeys both, so that stores can be copied."""


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
        """Remove an object; a missing one is not an error."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Remove what writers left that were killed, and count it; objects are never touched.

        Args:
            older_than_s: younger rests may belong to writers at work.
        """
        ...


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
