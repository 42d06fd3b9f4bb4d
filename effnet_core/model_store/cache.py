"""Published models on this machine: fetched once, verified, kept in the cache by their digest."""

from __future__ import annotations

from pathlib import Path

from effnet_core.cache import cache_dir
from effnet_core.config import StorageConfig
from effnet_core.locks import alone
from effnet_core.model_store.shelf import PRODUCTION, Shelf, sha256_of_bytes
from effnet_core.model_store.versions import fetch_model

STORE_SCHEME = "store:"


def cached_model(storage: StorageConfig, version: str = PRODUCTION) -> Path:
    """The checkpoint of a published version, with its sidecar, on this machine's disk.

    ``production`` is looked up each time, so a moved pointer is followed; the files of a version that were
    fetched before are compared with their digests and used again.

    Raises:
        StoreError: there is no such version, it is damaged, or the store cannot be reached.
    """
    shelf = Shelf.open(storage)
    manifest, data = shelf.require(version)
    folder = cache_dir("models") / f"{manifest.version}-{sha256_of_bytes(data)[:16]}"
    with alone(folder):
        return fetch_model(storage, manifest.version, folder)


def from_store(weights: str | Path, storage: StorageConfig) -> str | Path:
    """What ``production`` or ``store:VERSION`` stands for; other weights as they are.

    A long run asks once and keeps the answer, since the pointer may move meanwhile.

    Raises:
        StoreError: there is no such version, or the store cannot be reached.
    """
    text = str(weights)
    if text == PRODUCTION and not Path(text).exists():
        return cached_model(storage)
    if text.startswith(STORE_SCHEME):
        return cached_model(storage, text.removeprefix(STORE_SCHEME))
    return weights
