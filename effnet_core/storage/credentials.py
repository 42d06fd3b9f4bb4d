"""Credentials that do not come from boto3's own chain, held in memory for the time of a block.

They are handed over by a secret store (``tasks/credentials.py``), never by a setting: settings are
written to disk, logged and shown on the dashboard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Credentials:
    """One key pair of an object store; its text form shows none of it."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def environment(self) -> dict[str, str]:
        """The variables by which a child process gets them."""
        token = {"AWS_SESSION_TOKEN": self.session_token} if self.session_token else {}
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            **token,
        }


_in_use: list[Credentials] = []


@contextmanager
def using(credentials: Credentials | None) -> Iterator[None]:
    """Use these instead of boto3's chain inside the block, in all threads; None changes nothing."""
    if credentials is None:
        yield
        return
    _in_use.append(credentials)
    try:
        yield
    finally:
        _in_use.remove(credentials)


def in_use() -> Credentials | None:
    """What ``using`` handed over last, or None where boto3's own chain decides."""
    return _in_use[-1] if _in_use else None
