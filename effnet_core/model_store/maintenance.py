"""Looking after a model store: is everything that was published still whole, and what can go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import StoreBusy, StoreDamaged, StoreError
from effnet_core.events import Event, emit
from effnet_core.model_store.registry import (
    CLAIM_NAME,
    Claim,
    Registry,
    VersionManifest,
    moment_of,
    now,
)
from effnet_core.system.files import sha256_of_file
from effnet_core.system.locks import scratch_folder
from effnet_core.text import human_bytes
from effnet_core.weights.catalogue import PRODUCTION

TOPIC = "store"
ABANDONED_S = 24 * 3600
"""Age at which an upload without an end is taken for dead."""


@dataclass(frozen=True)
class Garbage:
    """What was swept, or would be."""

    versions: tuple[str, ...]
    """Uploads of versions that never came to their end."""
    rests: int
    """Unfinished transfers and temporary files of writers that were killed."""


def verify(storage: StorageConfig, version: str | None = None) -> list[str]:
    """Read every file of one version or of all and compare its SHA-256.

    Returns:
        What is wrong, one sentence a version; empty where all is well.

    Raises:
        StoreError: there is no such model or version, or the store cannot be reached.
    """
    registry = Registry.open(storage)
    names = [version] if version else [v for v, complete in registry.uploads().items() if complete]
    if not names:
        raise registry.unknown_name()
    problems = [] if version else _pointer_problems(registry)
    for done, name in enumerate(names):
        emit(Event(TOPIC, f"verifying {name}", done, len(names)))
        try:
            manifest, _ = registry.require(name)
            registry.require_whole(manifest)
            _verify_files(registry, manifest)
        except StoreBusy:
            raise  # says nothing about the version
        except StoreDamaged as damage:
            problems.append(str(damage))
        except StoreError as error:
            if version and registry.manifest(version) is None:
                raise
            problems.append(str(error))
    emit(Event(TOPIC, f"{len(names)} version(s) verified", len(names), len(names)))
    return problems


def collect_garbage(
    storage: StorageConfig, *, older_than_s: float = ABANDONED_S, dry_run: bool = False
) -> Garbage:
    """Delete what killed publishers left: files without manifest, transfers without end.

    Versions are never touched. An upload that is taken up again renews its age.

    Args:
        older_than_s: younger ones may be of publishers at work.
        dry_run: say what would go; unfinished transfers are not counted then.

    Raises:
        StoreError: the store cannot be reached, or refuses.
    """
    registry = Registry.open(storage)
    limit = now() - timedelta(seconds=older_than_s)
    dead = []
    for version, complete in sorted(registry.uploads().items()):
        claim = None if complete else _claim(registry, version)
        if claim and moment_of(claim.at) <= limit:
            dead.append(version)
    if dry_run:
        return Garbage(tuple(dead), 0)
    for version in dead:
        _delete(registry, version)
        emit(Event(TOPIC, f"deleted the unfinished upload {registry.uri(version)}"))
    return Garbage(tuple(dead), registry.store.sweep(older_than_s))


def _pointer_problems(registry: Registry) -> list[str]:
    """What is wrong with the pointer or with the version that it names."""
    try:
        if registry.pointer():
            registry.require(PRODUCTION)
    except StoreDamaged as damage:
        return [str(damage)]
    return []


def _claim(registry: Registry, version: str) -> Claim | None:
    """Whose unfinished upload a version is; one whose age cannot be read is reported and left alone."""
    try:
        return registry.claim(version)
    except StoreDamaged as damage:
        emit(Event(TOPIC, str(damage)))
        return None


def _verify_files(registry: Registry, manifest: VersionManifest) -> None:
    with scratch_folder("fetch") as folder:
        for file in manifest.files:
            path = folder / "file"
            registry.store.get_file(registry.key(manifest.version, file.path), path)
            found = sha256_of_file(path)
            if found != file.sha256:
                what = f"not what was published (SHA-256 {found[:12]}, not {file.sha256[:12]})"
                raise registry.damaged(manifest, file, what)
            text = f"{manifest.version}/{file.path}: {human_bytes(file.size_bytes)}, as published"
            emit(Event(TOPIC, text))


def _delete(registry: Registry, version: str) -> None:
    """Delete an upload, its claim last, so that a cut deletion is found again."""
    prefix = registry.key(version, "")
    keys = [entry.key for entry in registry.store.list(prefix)]
    if registry.manifest(version) is not None:
        return  # completed a moment ago
    for key in sorted(keys, key=lambda key: key.endswith(f"/{CLAIM_NAME}")):
        registry.store.delete(key)
