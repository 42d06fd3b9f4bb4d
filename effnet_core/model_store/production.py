"""Production: the pointer that only a gate moves, forwards by promotion and back by rollback.

It is moved by compare-and-swap, so nobody undoes what he has not seen.
"""

from __future__ import annotations

from typing import Any

from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import Conflict, GateRefused, StoreError
from effnet_core.events import Event, emit
from effnet_core.model_store.registry import Manifest, Pointer, Registry, known, sha256_of_bytes

STAGE = "publish"
ROUNDING = 1e-9
"""Top-1 is a ratio of counts: differences below this are those of binary fractions."""
POINTER_TRIES = 20
"""Each lost race means that somebody else moved the pointer, so few are ever needed."""


def promote(
    storage: StorageConfig, version: str, gate: EvaluateConfig, *, force_reason: str | None = None
) -> dict[str, Any]:
    """Make a version the production version, if the gate lets it through.

    Args:
        storage: store and name.
        version: one that is published.
        gate: what it must reach.
        force_reason: promote whatever the gate says; recorded in the pointer.

    Returns:
        The content of ``production.json``.

    Raises:
        GateRefused: it is not good enough; nothing was changed.
        Conflict: somebody else promoted another at the same moment, and this one is not better.
        StoreError: there is no such version, or files of it are missing.
    """
    if force_reason is not None and not force_reason.strip():
        raise StoreError("a forced promotion needs a reason in words; give one, or leave it out")
    return move_pointer(Registry.open(storage), version, gate, force_reason).model_dump()


def rollback(storage: StorageConfig) -> dict[str, Any]:
    """Return production to the version before the last promotion.

    A second rollback in a row is refused, so that a repeated call cannot bring the bad version
    back.

    Returns:
        The content of ``production.json``.

    Raises:
        Conflict: somebody moved production meanwhile; nothing was changed.
        StoreError: there is nothing to return to, or files of it are missing.
    """
    registry = Registry.open(storage)
    pointer, etag = registry.require_pointer()
    if pointer.previous is None:
        raise StoreError(
            f"no version before {pointer.version!r} is recorded for production of {registry.name!r}; "
            f"promote one by its name ({known(registry.versions())})"
        )
    manifest, data = registry.require(pointer.previous)
    registry.require_whole(manifest)
    reason = f"rolled back from {pointer.version}"
    moved = Pointer.to(manifest, data, previous=None, reason=reason)
    try:
        registry.store.put_bytes(registry.pointer_key, moved.to_bytes(), if_match=etag)
    except Conflict as cause:
        raise Conflict(
            f"production of {registry.name!r} was moved by somebody else during the rollback from "
            f"{pointer.version!r}; look where it is now and decide anew"
        ) from cause
    emit(Event(STAGE, f"production of {registry.name} is {manifest.version} again ({reason})"))
    return moved.model_dump()


def move_pointer(
    registry: Registry, version: str, gate: EvaluateConfig, force_reason: str | None = None
) -> Pointer:
    """As ``promote``, on a registry that is open."""
    manifest, data = registry.require(version)
    registry.require_whole(manifest)
    overtaken = False
    for _ in range(POINTER_TRIES):
        pointer, etag = registry.pointer() or (None, None)
        if pointer and pointer.manifest_sha256 == sha256_of_bytes(data):
            emit(Event(STAGE, f"{manifest.version} is the production version already"))
            return pointer
        production = _production_to_beat(registry, manifest, pointer)
        refusal = _refusal(manifest, production, gate)
        if refusal and force_reason is None:
            raise GateRefused(f"version {manifest.version!r} of {registry.name!r} {refusal}")
        if overtaken and (force_reason is not None or not _is_better(manifest, production)):
            raise _overtaken(registry, manifest, pointer)
        reason = f"forced: {force_reason}" if refusal else "passed the gate"
        previous = _version_to_return_to(manifest, pointer)
        moved = Pointer.to(manifest, data, previous=previous, reason=reason)
        try:
            registry.store.put_bytes(
                registry.pointer_key, moved.to_bytes(), if_match=etag, if_none_match=etag is None
            )
        except Conflict:
            overtaken = True  # look again; only a better model continues by itself
            continue
        was = f", before it was {previous}" if previous else ""
        emit(
            Event(STAGE, f"production of {registry.name} is {manifest.version} now{was} ({reason})")
        )
        return moved
    raise _overtaken(registry, manifest, None)


def _is_better(manifest: Manifest, production: Manifest | None) -> bool:
    """Whether a version beats another that was measured on the same data."""
    return production is not None and manifest.metrics.top1 > production.metrics.top1 + ROUNDING


def _overtaken(registry: Registry, manifest: Manifest, pointer: Pointer | None) -> Conflict:
    """The error for a promotion that lost to another at the same moment."""
    moved = f" to {pointer.version!r} by {pointer.by} at {pointer.at}" if pointer else " by others"
    return Conflict(
        f"production of {registry.name!r} was moved{moved} while {manifest.version!r} was to be "
        "promoted, so it was not; promote it again if it is to replace that one"
    )


def _version_to_return_to(manifest: Manifest, pointer: Pointer | None) -> str | None:
    """What a rollback leads to, never the version itself (it may have been published anew)."""
    if pointer is None:
        return None
    return pointer.previous if pointer.version == manifest.version else pointer.version


def _production_to_beat(
    registry: Registry, manifest: Manifest, pointer: Pointer | None
) -> Manifest | None:
    """The production version, if there is one to compare with; else it is said why not."""
    if pointer is None or pointer.version == manifest.version:
        return None
    try:
        found = registry.manifest(pointer.version)
    except StoreError:
        found = None
    alone = f"so evaluate.min_top1 alone decides on {manifest.version}"
    if found is None:
        emit(Event(STAGE, f"production version {pointer.version} cannot be read, {alone}"))
        return None
    production = found[0]
    if not manifest.data_digest or _measured_on(production) != _measured_on(manifest):
        text = (
            f"production version {production.version} was measured on other data "
            f"({_data_text(production)}) than {manifest.version} ({_data_text(manifest)}), {alone}"
        )
        emit(Event(STAGE, text))
        return None
    return production


def _refusal(manifest: Manifest, production: Manifest | None, gate: EvaluateConfig) -> str:
    """Why the gate stays closed, as the rest of a sentence; empty when it opens."""
    top1, seen, split = manifest.metrics.top1, manifest.metrics.seen, manifest.metrics.split
    measured = f"is not promoted: its top-1 {top1:.6g} on {seen} images of {split!r}"
    if top1 < gate.min_top1 - ROUNDING:
        return (
            f"{measured} is below evaluate.min_top1={gate.min_top1:g}; train a better model or "
            "lower evaluate.min_top1"
        )
    if production and top1 < production.metrics.top1 - gate.promote_margin - ROUNDING:
        return (
            f"{measured} is more than evaluate.promote_margin={gate.promote_margin:g} below "
            f"{production.metrics.top1:.6g} of production version {production.version!r}; train a "
            "better model or raise evaluate.promote_margin"
        )
    return ""


def _measured_on(manifest: Manifest) -> tuple[str, str]:
    return manifest.data_digest, manifest.metrics.split


def _data_text(manifest: Manifest) -> str:
    return f"{manifest.metrics.split!r} of {manifest.data_digest[:12] or 'unknown data'}"
