"""The folder for what can be made or fetched again: engine files, downloaded weights."""

from __future__ import annotations

import os
from pathlib import Path

from effnet_core.files import make_folder

CACHE_VARIABLE = "EFFNET_CACHE_DIR"


def cache_dir(name: str) -> Path:
    """A folder of the cache, made if it is not there.

    Args:
        name: what is kept there, such as ``engines``.

    Raises:
        DataError: it cannot be written to.
    """
    return make_folder(cache_path(name), what=f"cache folder (set {CACHE_VARIABLE} for another)")


def cache_path(name: str) -> Path:
    """Where a folder of the cache is, or would be.

    The cache is ``$EFFNET_CACHE_DIR``, else ``$XDG_CACHE_HOME/effnet``, else ``~/.cache/effnet``.
    """
    root = os.environ.get(CACHE_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root or f"{base}/effnet").expanduser().absolute() / name
