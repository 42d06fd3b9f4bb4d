"""The folder for what can be made or fetched again: engine files, downloaded weights, kernels."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from effnet_core.storage.ownership import make_own_folder, require_own
from effnet_core.system.files import make_folder

CACHE_VARIABLE = "EFFNET_CACHE_DIR"


def cache_dir(name: str) -> Path:
    """A folder of the cache, made if it is not there.

    Args:
        name: what is kept there, such as ``engines``.

    Raises:
        DataError: it cannot be written to, or others may have put something there.
    """
    path = cached(cache_path(name))
    with suppress(OSError):  # make_folder says why
        make_own_folder(path)
    return make_folder(path, what=f"cache folder (set {CACHE_VARIABLE} for another)")


def cached(path: Path) -> Path:
    """A file or folder of the cache that is about to be used; it need not exist.

    Raises:
        DataError: somebody else may have put or changed it.
    """
    require_own(path, what="cache", remedy=f"set {CACHE_VARIABLE} to a folder of your own")
    return path


def cache_path(name: str) -> Path:
    """Where a folder of the cache is, or would be.

    The cache is ``$EFFNET_CACHE_DIR``, else ``$XDG_CACHE_HOME/effnet``, else ``~/.cache/effnet``.
    """
    root = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root or f"{base}/effnet").expanduser().absolute() / name
