"""What a store has: its versions, and copies of them on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import OutputExists, StoreDamaged, StoreError
from effnet_core.events import Event, emit
from effnet_core.model_store.registry import (
    MANIFEST_NAME,
    FileEntry,
    Registry,
    VersionManifest,
    sha256_of_bytes,
)
from effnet_core.storage import require_key
from effnet_core.storage.cache import cache_dir
from effnet_core.system.files import atomic_path, sha256_of_file
from effnet_core.system.locks import alone, sole_user
from effnet_core.text import human_bytes, os_reason
from effnet_core.weights.catalogue import PRODUCTION
from effnet_core.weights.checkpoint import Checkpoint, opened_before

TOPIC = "publish"


def list_versions(storage: StorageConfig) -> list[dict[str, Any]]:
    """The manifests of every published version, newest first.

    Each also says ``production`` (whether it is in use), ``uri`` (its folder) and ``unreadable``:
    empty, or why its manifest cannot be read; such versions come last and have no more than
    ``version`` besides. Unfinished uploads are left out. An empty store has no versions.

    Raises:
        StoreBusy: the store does not answer.
        StoreError: the store has other models, but none of this name.
    """
    registry = Registry.open(storage)
    manifests, unreadable = registry.survey()
    if not manifests and not unreadable and registry.names():
        raise registry.unknown_name()
    in_use = _version_in_use(registry)

    def facts(version: str, reason: str = "") -> dict[str, Any]:
        production = version == in_use
        return {"production": production, "uri": registry.uri(version), "unreadable": reason}

    return [
        *({**m.model_dump(), **facts(m.version)} for m in manifests),
        *({"version": lost.version, **facts(lost.version, lost.reason)} for lost in unreadable),
    ]


def _version_in_use(registry: Registry) -> str | None:
    """The production version; a damaged pointer is reported, and must not hide the versions."""
    try:
        found = registry.pointer()
    except StoreDamaged as damage:
        emit(Event("store", str(damage)))
        return None
    return found[0].version if found else None


def resolve_version(storage: StorageConfig, version: str) -> dict[str, Any]:
    """The manifest of a version, or of the one in ``production``.

    Raises:
        StoreError: there is no such model or version; the message names the nearest.
    """
    return Registry.open(storage).require(version)[0].model_dump()


def fetch_model(storage: StorageConfig, version: str, out: Path) -> Path:
    """Copy a version's files to a folder, every digest verified.

    Files that are there already are kept if they are the right ones, so that an interrupted fetch
    continues where it was.

    Returns:
        The checkpoint's path, its sidecar beside it.

    Raises:
        StoreError: there is no such version, or a file of it is missing or damaged.
        OutputExists: ``out`` holds another file under one of the names, or is in use.
        DataError: ``out`` cannot be written to.
    """
    registry = Registry.open(storage)
    manifest, data = registry.require(version)
    registry.require_whole(manifest)
    with sole_user(out, what="output folder"):
        return _fetch(registry, manifest, data, out)


def _fetch(registry: Registry, manifest: VersionManifest, data: bytes, out: Path) -> Path:
    """A version's files into a folder that nobody else uses meanwhile."""
    files = (*manifest.files, FileEntry.of_bytes(MANIFEST_NAME, data))
    missing = [file for file in files if not _is_there(out, file, manifest)]
    for done, file in enumerate(missing, start=len(files) - len(missing)):
        text = f"fetching {file.path} ({human_bytes(file.size_bytes)}) of {manifest.version}"
        emit(Event(TOPIC, text, done, len(files)))
        _fetch_file(registry, manifest, file, out)
    text = f"{registry.uri(manifest.version)} is in {out}, every digest verified"
    emit(Event(TOPIC, text, len(files), len(files)))
    return out / manifest.checkpoint


def _is_there(out: Path, file: FileEntry, manifest: VersionManifest) -> bool:
    """Whether ``out`` holds a file already.

    Raises:
        OutputExists: it holds another one under that name.
    """
    path = out / require_key(file.path)
    if not path.exists():
        return False
    if path.is_file() and sha256_of_file(path) == file.sha256:
        return True
    raise OutputExists(
        f"{path} exists and is not the {file.path} of version {manifest.version!r}; choose another "
        "folder or move that file away"
    )


def _fetch_file(registry: Registry, manifest: VersionManifest, file: FileEntry, out: Path) -> None:
    try:
        with atomic_path(out / file.path) as temporary:
            registry.store.get_file(registry.key(manifest.version, file.path), temporary)
            found = sha256_of_file(temporary)
            if found != file.sha256:
                what = f"not what was published (SHA-256 {found[:12]}, not {file.sha256[:12]})"
                raise registry.damaged(manifest, file, what)
    except OSError as cause:
        raise StoreError(f"{out / file.path} cannot be written ({os_reason(cause)})") from cause


def cached_model(storage: StorageConfig, version: str = PRODUCTION) -> Checkpoint:
    """The checkpoint of a published version, on this machine's disk.

    ``production`` is looked up each time, so a moved pointer is followed; the files of a version that were
    fetched before are compared with their digests and used again.

    Raises:
        StoreError: there is no such version, it is damaged, or the store cannot be reached.
    """
    registry = Registry.open(storage)
    manifest, data = registry.require(version)
    folder = cache_dir("models") / f"{manifest.version}-{sha256_of_bytes(data)[:16]}"
    with alone(folder):
        path = fetch_model(storage, manifest.version, folder)
    return opened_before(path, manifest.checkpoint_sha256)
