"""Production: the pointer that only a gate moves, forwards by promotion and back by rollback.

The gate compares a version with production on the same images, pair by pair; how that is measured it is
given (``Compare``). Without it, two versions that were measured on the same data are compared by their
top-1, and others are not: the gate stays closed.

It is moved by compare-and-swap, so nobody undoes what he has not seen. A production that cannot be
read keeps the gate closed: a busy store is an error to try again, a damaged one needs a person who
forces the promotion with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import Conflict, GateRefused, StoreBusy, StoreDamaged, StoreError
from effnet_core.events import Event, emit
from effnet_core.model_store.registry import (
    Pointer,
    Registry,
    VersionManifest,
    known,
    sha256_of_bytes,
)
from effnet_core.results.paired import Paired
from effnet_core.results.paired import refusal as shortfall

TOPIC = "publish"
ROUNDING = 1e-9
"""Top-1 is a ratio of counts: differences below this are those of binary fractions."""
CLOSED = "is not promoted, because there is nothing to compare it with"
POINTER_TRIES = 20
"""Each lost race means that somebody else moved the pointer, so few are ever needed."""

Compare: TypeAlias = Callable[[VersionManifest], Paired]
"""Compares the version that is to be promoted with another, on the images that it was measured on."""


def promote(
    storage: StorageConfig,
    version: str,
    gate: EvaluateConfig,
    *,
    force_reason: str | None = None,
    compare: Compare | None = None,
) -> dict[str, Any]:
    """Make a version the production version, if the gate lets it through.

    Args:
        storage: store and name.
        version: one that is published.
        gate: what it must reach.
        force_reason: promote whatever the gate says; recorded in the pointer.
        compare: compares it with production, pair by pair.

    Returns:
        The content of ``production.json``.

    Raises:
        GateRefused: it is not good enough, or production is damaged, so that there is nothing to
            compare with; nothing was changed.
        StoreBusy: the store does not answer; nothing was changed, and the same call may succeed later.
        Conflict: somebody else promoted another at the same moment, and this one is not better.
        StoreError: there is no such version, or files of it are missing.
    """
    if force_reason is not None and not force_reason.strip():
        raise StoreError("a forced promotion needs a reason in words; give one, or leave it out")
    registry = Registry.open(storage)
    return move_pointer(registry, version, gate, force_reason, compare).model_dump()


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
    emit(Event(TOPIC, f"production of {registry.name} is {manifest.version} again ({reason})"))
    return moved.model_dump()


def move_pointer(
    registry: Registry,
    version: str,
    gate: EvaluateConfig,
    force_reason: str | None = None,
    compare: Compare | None = None,
) -> Pointer:
    """As ``promote``, on a registry that is open."""
    manifest, data = registry.require(version)
    registry.require_whole(manifest)
    overtaken = False
    for _ in range(POINTER_TRIES):
        standing = _look(registry, manifest, None if force_reason else compare)
        pointer = standing.pointer
        if pointer and pointer.manifest_sha256 == sha256_of_bytes(data):
            emit(Event(TOPIC, f"{manifest.version} is the production version already"))
            return pointer
        refusal = _refusal(manifest, standing, gate)
        if standing.apart and not refusal:
            refusal = (
                f"is not promoted, because {standing.apart}, so that only a comparison on the same "
            )
            refusal += f"images says which is better: {registry.how_to_compare(manifest.version)}"
        if standing.lost:
            how = registry.how_to_force(manifest.version)
            refusal = f"{CLOSED}: {standing.lost}. To promote it all the same: {how}"
        if refusal and force_reason is None:
            raise GateRefused(f"version {manifest.version!r} of {registry.name!r} {refusal}")
        if overtaken and (force_reason is not None or not _is_better(manifest, standing)):
            raise _overtaken(registry, manifest, pointer)
        reason = _reason(manifest, standing, gate, force_reason=force_reason, refusal=refusal)
        previous = _version_to_return_to(manifest, standing)
        comparison = standing.paired.to_dict() if standing.paired else None
        moved = Pointer.to(manifest, data, previous=previous, reason=reason, comparison=comparison)
        try:
            registry.store.put_bytes(
                registry.pointer_key,
                moved.to_bytes(),
                if_match=standing.etag,
                if_none_match=standing.etag is None,
            )
        except Conflict:
            overtaken = True  # look again; only a better model is still promoted by itself
            continue
        registry.remember(moved)
        was = f", before it was {previous}" if previous else ""
        emit(
            Event(TOPIC, f"production of {registry.name} is {manifest.version} now{was} ({reason})")
        )
        return moved
    raise _overtaken(registry, manifest, None)


@dataclass(frozen=True)
class Standing:
    """What is in production while a version asks to replace it."""

    pointer: Pointer | None
    etag: str | None
    """Version tag that moving the pointer needs; None where there is no pointer."""
    production: VersionManifest | None = None
    """The version to compare with, where there is one."""
    paired: Paired | None = None
    """The comparison on the same images."""
    incomparable: str = ""
    """Why there is no version to compare with, as a part of a sentence."""
    apart: str = ""
    """Why it cannot be compared: they were measured on different data; the gate stays closed then."""
    lost: str = ""
    """Why production cannot be read; the gate stays closed then."""


def _look(registry: Registry, manifest: VersionManifest, compare: Compare | None) -> Standing:
    """What is in production now.

    Raises:
        StoreBusy: the store does not answer, so nobody knows.
    """
    try:
        return _standing(registry, manifest, compare)
    except StoreBusy as busy:
        raise StoreBusy(
            f"version {manifest.version!r} of {registry.name!r} is not promoted, because production "
            f"cannot be read to compare it with: {busy}"
        ) from busy


def _standing(registry: Registry, manifest: VersionManifest, compare: Compare | None) -> Standing:
    try:
        found = registry.pointer()
    except StoreDamaged as damage:
        return Standing(None, registry.store.get_bytes(registry.pointer_key)[1], lost=str(damage))
    if found is None:
        return Standing(None, None, incomparable="there was no production version")
    pointer, etag = found
    same_name = pointer.version == manifest.version
    if same_name and pointer.checkpoint_sha256 == manifest.checkpoint_sha256:
        return Standing(pointer, etag, incomparable="it was the production version before")
    try:
        production = _require_production(registry, pointer)
        paired = compare(production) if compare is not None else None
    except StoreBusy:
        raise
    except (
        StoreError
    ) as damage:  # its record or its files are damaged, or it knows none of the classes
        return Standing(pointer, etag, lost=str(damage))
    same = bool(manifest.data_digest) and _measured_on(production) == _measured_on(manifest)
    if paired is None and not same:
        text = (
            f"production version {production.version!r} was measured on other data "
            f"({_data_text(production)}) than {manifest.version!r} ({_data_text(manifest)})"
        )
        return Standing(pointer, etag, apart=text)
    return Standing(pointer, etag, production, paired=paired)


def _require_production(registry: Registry, pointer: Pointer) -> VersionManifest:
    """The manifest of the production version.

    Raises:
        StoreError: it is missing, damaged or not the one that was promoted.
    """
    found = registry.manifest(pointer.version)
    if found is None:
        raise registry.production_lost(pointer.version)
    if sha256_of_bytes(found[1]) != pointer.manifest_sha256:
        raise registry.changed_since(pointer.version, pointer)
    return found[0]


def _reason(
    manifest: VersionManifest,
    standing: Standing,
    gate: EvaluateConfig,
    *,
    force_reason: str | None,
    refusal: str,
) -> str:
    """Why the pointer is moved, and what the version was compared with, for the record."""
    if refusal:
        what = "the pointer" if standing.pointer is None else repr(standing.pointer.version)
        unread = f" (production could not be read: {what})" if standing.lost else ""
        return f"forced: {force_reason}{unread}"
    top1, production = manifest.metrics.top1, standing.production
    also = f"; reason given: {force_reason}" if force_reason else ""
    if production is None:
        return (
            f"not compared with another version, because {standing.incomparable}; only "
            f"evaluate.min_top1={gate.min_top1:g} was required of its top-1, {top1:.6g}{also}"
        )
    if standing.paired is not None:
        found = standing.paired
        return (
            f"passed the gate: top-1 {found.challenger_top1:.6g} against {found.champion_top1:.6g} of "
            f"{production.version!r} on the same {found.images} images: {found.in_words()}; "
            f"evaluate.promote_if={gate.promote_if}, "
            f"evaluate.promote_margin={gate.promote_margin:g}{also}"
        )
    return (
        f"passed the gate: top-1 {top1:.6g} against {production.metrics.top1:.6g} of "
        f"{production.version!r} on the same {manifest.metrics.seen} images of "
        f"{manifest.metrics.split!r}{also}"
    )


def _is_better(manifest: VersionManifest, standing: Standing) -> bool:
    """Whether a version beats production on the same data."""
    if standing.paired is not None:
        return standing.paired.difference > ROUNDING
    production = standing.production
    return production is not None and manifest.metrics.top1 > production.metrics.top1 + ROUNDING


def _overtaken(registry: Registry, manifest: VersionManifest, pointer: Pointer | None) -> Conflict:
    """The error for a promotion that lost to another at the same moment."""
    moved = f" to {pointer.version!r} by {pointer.by} at {pointer.at}" if pointer else " by others"
    return Conflict(
        f"production of {registry.name!r} was moved{moved} while {manifest.version!r} was to be "
        "promoted, so it was not; promote it again if it is to replace that one"
    )


def _version_to_return_to(manifest: VersionManifest, standing: Standing) -> str | None:
    """What a rollback leads to: one that can be read, never the version itself."""
    pointer = standing.pointer
    if pointer is None:
        return None
    lost = standing.lost or pointer.version == manifest.version  # it may have been published anew
    previous = pointer.previous if lost else pointer.version
    return None if previous == manifest.version else previous


def _refusal(manifest: VersionManifest, standing: Standing, gate: EvaluateConfig) -> str:
    """Why the gate stays closed, as the rest of a sentence; empty when it opens."""
    top1, seen, split = manifest.metrics.top1, manifest.metrics.seen, manifest.metrics.split
    if top1 < gate.min_top1 - ROUNDING:
        return (
            f"is not promoted: its top-1 {top1:.6g} on {seen} images of {split!r} is below "
            f"evaluate.min_top1={gate.min_top1:g}; train a better model or lower evaluate.min_top1"
        )
    production, found = standing.production, standing.paired
    if production is None:
        return ""
    other = production.metrics.top1
    words = ""
    if found is not None:
        top1, other, seen = found.challenger_top1, found.champion_top1, found.images
        words = f" on the same images: {found.in_words()}"
    elif gate.promote_if == "significantly_better":
        words = (
            " (whether a difference is significant only a comparison on the same images can say)"
        )
    short = shortfall(
        top1 - other, promote_if=gate.promote_if, margin=gate.promote_margin, found=found
    )
    if not short:
        return ""
    key = "promote_margin" if gate.promote_if == "not_worse" else "promote_if"
    return (
        f"is not promoted: its top-1 {top1:.6g} on {seen} images of {split!r} {short} {other:.6g} of "
        f"production version {production.version!r}{words}; train a better model or "
        f"{'raise' if key == 'promote_margin' else 'change'} evaluate.{key}"
    )


def _measured_on(manifest: VersionManifest) -> tuple[str, str]:
    return manifest.data_digest, manifest.metrics.split


def _data_text(manifest: VersionManifest) -> str:
    return f"{manifest.metrics.split!r} of {manifest.data_digest[:12] or 'unknown data'}"
