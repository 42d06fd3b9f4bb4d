"""Where files lie: local folders and S3-compatible object stores.

- ``store.py``: the interface of publication, with conditional writes; ``local.py``, ``s3.py``: its forms
- ``addresses.py``: ``s3://bucket/key``
- ``client.py``: the one place that makes an S3 client, with the credentials in use
- ``trees.py``, ``bulk.py``: whole folders, small files by obstore
- ``refusals.py``: what servers and boto3 raise, as sentences
- ``objects.py``, ``ranged.py``: listing and reading
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from effnet_core.errors import ConfigError
from effnet_core.storage.addresses import S3Url, is_s3, parse_s3, without_userinfo
from effnet_core.storage.client import DEFAULT_ACCESS, S3Access, s3_client
from effnet_core.storage.local import LocalStore
from effnet_core.storage.objects import StoredObject, list_objects, read_object
from effnet_core.storage.store import PRIVATE_NAME, Entry, Store, require_key

__all__ = [
    "DEFAULT_ACCESS",
    "PRIVATE_NAME",
    "Entry",
    "LocalStore",
    "S3Access",
    "S3Url",
    "Store",
    "StoredObject",
    "is_s3",
    "list_objects",
    "open_store",
    "parse_s3",
    "read_object",
    "require_key",
    "s3_client",
]


def open_store(uri: str, access: S3Access = DEFAULT_ACCESS) -> Store:
    """The store at a path, a ``file://`` or an ``s3://`` address; it need not exist yet.

    Args:
        uri: a path, ``file:///path`` or ``s3://bucket/prefix``.
        access: how to reach an object store.

    Raises:
        ConfigError: the address is empty or of a kind that this version does not know.
    """
    if not uri.strip() or "\0" in uri:
        raise ConfigError(f"storage.root={uri!r} is not a place; give a folder such as store")
    if is_s3(uri):
        from effnet_core.storage.s3 import S3Store

        return S3Store(parse_s3(uri), access)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", uri)
    if scheme is None:
        try:
            return LocalStore(Path(uri).expanduser())
        except RuntimeError as cause:
            raise ConfigError(
                f"storage.root={uri!r} names a home folder that is not known"
            ) from cause
    shown = without_userinfo(uri)
    if scheme[1].lower() == "file":
        return LocalStore(_path_of(uri[scheme.end() - 1 :], shown))
    raise ConfigError(
        f"storage.root={shown!r} has the unknown scheme {scheme[1]!r}; allowed are a path such as "
        "store, file:///srv/models, or s3://bucket/models"
    )


def _path_of(rest: str, shown: str) -> Path:
    """The path of a ``file:`` address."""
    host, _, path = rest.removeprefix("//").partition("/")
    if host not in ("", "localhost"):
        raise ConfigError(
            f"storage.root={shown!r} names the machine {host!r}; give a path such as store, "
            "file:///srv/models, or s3://bucket/models"
        )
    if not path.strip("/"):
        raise ConfigError(
            f"storage.root={shown!r} is not an absolute path; give one such as file:///srv/models"
        )
    return Path("/" + unquote(path))
