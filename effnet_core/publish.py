"""Publication: versions that never change, and a production pointer that only a gate moves.

``shelf.py`` draws the layout. Files are stored first and the manifest last, so a reader never sees
half a version; the pointer is moved by compare-and-swap, so nobody undoes what he has not seen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core import __version__
from effnet_core.checkpoint import MODEL_NAME, Sidecar, read_sidecar, sidecar_path
from effnet_core.config import CONFIG_NAME, EvaluateConfig, StorageConfig, read_config
from effnet_core.errors import Conflict, GateRefused, OutputExists, StoreError
from effnet_core.events import Event, emit
from effnet_core.files import atomic_path, human_bytes, make_folder, os_reason, sha256_of_file
from effnet_core.job import METRICS_NAME, RESULT_NAME
from effnet_core.results import EvalResult
from effnet_core.shelf import (
    CLAIM_NAME,
    MANIFEST_NAME,
    PRODUCTION,
    Claim,
    FileEntry,
    Manifest,
    Metrics,
    Pointer,
    Shelf,
    known,
    now,
    sha256_of_bytes,
    timestamp,
    who,
)
from effnet_core.storage import require_key

STAGE = "publish"

REQUIRED = (sidecar_path(Path(MODEL_NAME)).name, CONFIG_NAME)
OPTIONAL = (METRICS_NAME, RESULT_NAME)
"""Files of a run folder that are published beside the checkpoint."""

NOT_ASKED = "promotion was not asked for"
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ROUNDING = 1e-9
"""Top-1 is a ratio of counts: differences below this are those of binary fractions."""
POINTER_TRIES = 20
"""Each lost race means that somebody else moved the pointer, so few are ever needed."""


@dataclass(frozen=True)
class Published:
    """What became of a model that was to be published."""

    name: str
    version: str
    uri: str
    """Address of the version's folder."""
    promoted: bool
    """Whether it is the production version now."""
    reused: bool
    """Whether this checkpoint had been published before, so that nothing was uploaded."""
    reason: str
    """Why it was not promoted; empty when it was."""
    top1: float


def publish_model(
    run_dir: Path,
    *,
    evaluation: EvalResult,
    storage: StorageConfig,
    gate: EvaluateConfig,
    version: str | None = None,
    promote: bool = True,
) -> Published:
    """Put a run's model into the store as an immutable version, and promote it if it is good enough.

    A checkpoint that is published under this name already is not uploaded again; its version and
    figures stand. A gate that refuses does not undo the publication.

    Args:
        run_dir: holds ``model.ckpt``, its sidecar and ``config.yaml``.
        evaluation: of this very checkpoint.
        storage: store and name.
        gate: what a production version must reach.
        version: name of the version; time and digest by default.
        promote: whether to try the gate.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        StoreError: the evaluation is of another checkpoint, the version exists with other content,
            or the store refuses.
    """
    sidecar = read_sidecar(run_dir / MODEL_NAME)
    _require_evaluation_of(sidecar, evaluation, run_dir)
    _require_version_name(version)
    shelf = Shelf.open(storage)
    manifest, reused = _published_already(shelf, sidecar.sha256, version), True
    if manifest is None:
        chosen = version or _unfinished(shelf, sidecar.sha256) or _version_name(sidecar.sha256)
        manifest, reused = _upload(shelf, chosen, run_dir, sidecar, evaluation)
    uri = shelf.uri(manifest.version)
    if reused:
        emit(Event(STAGE, f"this checkpoint is published already, as {uri}", 1, 1))
    reason = _try_to_promote(shelf, manifest.version, gate) if promote else NOT_ASKED
    top1 = manifest.metrics.top1
    return Published(shelf.name, manifest.version, uri, not reason, reused, reason, top1)


def list_versions(storage: StorageConfig) -> list[dict[str, Any]]:
    """The manifests of every published version, newest first.

    Each also says ``production`` (whether it is in use) and ``uri`` (its folder). Unfinished
    uploads and damaged manifests are left out. An empty store has no versions.

    Raises:
        StoreError: the store has other models, but none of this name.
    """
    shelf = Shelf.open(storage)
    manifests = shelf.manifests()
    if not manifests and shelf.names():
        raise shelf.unknown_name()
    found = shelf.pointer()
    in_use = found[0].version if found else None
    return [
        {**m.model_dump(), "production": m.version == in_use, "uri": shelf.uri(m.version)}
        for m in manifests
    ]


def resolve_version(storage: StorageConfig, version: str) -> dict[str, Any]:
    """The manifest of a version, or of the one in ``production``.

    Raises:
        StoreError: there is no such model or version; the message names the nearest.
    """
    return Shelf.open(storage).require(version)[0].model_dump()


def fetch_model(storage: StorageConfig, version: str, out: Path) -> Path:
    """Copy a version's files to a folder, every digest verified.

    Files that are there already are kept if they are the right ones, so that an interrupted fetch
    goes on where it was.

    Returns:
        The checkpoint's path, its sidecar beside it.

    Raises:
        StoreError: there is no such version, or a file of it is missing or damaged.
        OutputExists: ``out`` holds another file under one of the names.
        DataError: ``out`` cannot be written to.
    """
    shelf = Shelf.open(storage)
    manifest, data = shelf.require(version)
    shelf.require_whole(manifest)
    make_folder(out, what="output folder")
    files = (*manifest.files, _entry(MANIFEST_NAME, data))
    missing = [file for file in files if not _is_there(out, file, manifest)]
    for done, file in enumerate(missing, start=len(files) - len(missing)):
        text = f"fetching {file.path} ({human_bytes(file.size_bytes)}) of {manifest.version}"
        emit(Event(STAGE, text, done, len(files)))
        _fetch_file(shelf, manifest, file, out)
    text = f"{shelf.uri(manifest.version)} is in {out}, every digest verified"
    emit(Event(STAGE, text, len(files), len(files)))
    return out / manifest.checkpoint


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
    return _promote(Shelf.open(storage), version, gate, force_reason).model_dump()


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
    shelf = Shelf.open(storage)
    pointer, etag = shelf.require_pointer()
    if pointer.previous is None:
        raise StoreError(
            f"no version before {pointer.version!r} is recorded for production of {shelf.name!r}; "
            f"promote one by its name ({known(shelf.versions())})"
        )
    manifest, data = shelf.require(pointer.previous)
    shelf.require_whole(manifest)
    reason = f"rolled back from {pointer.version}"
    moved = Pointer.to(manifest, data, previous=None, reason=reason)
    try:
        shelf.store.put_bytes(shelf.pointer_key, moved.to_bytes(), if_match=etag)
    except Conflict as cause:
        raise Conflict(
            f"production of {shelf.name!r} was moved by somebody else during the rollback from "
            f"{pointer.version!r}; look where it is now and decide anew"
        ) from cause
    emit(Event(STAGE, f"production of {shelf.name} is {manifest.version} again ({reason})"))
    return moved.model_dump()


def _require_evaluation_of(sidecar: Sidecar, evaluation: EvalResult, run_dir: Path) -> None:
    if evaluation.checkpoint_sha256 != sidecar.sha256:
        raise StoreError(
            f"the evaluation is of a checkpoint with SHA-256 "
            f"{evaluation.checkpoint_sha256[:12]!r}, but {run_dir / MODEL_NAME} has "
            f"{sidecar.sha256[:12]!r}; evaluate this one and publish with its result"
        )
    if evaluation.seen < 1:
        raise StoreError("the evaluation saw no image; evaluate on a split that is not empty")


def _require_version_name(version: str | None) -> None:
    if version is not None and (version == PRODUCTION or not VERSION_NAME.fullmatch(version)):
        raise StoreError(
            f"version {version!r} is not allowed: use at most 128 letters, digits, dots, dashes "
            f"and underscores, a letter or digit first, and not {PRODUCTION!r}; or leave it out"
        )


def _published_already(shelf: Shelf, sha256: str, version: str | None) -> Manifest | None:
    """The version that holds this checkpoint, the asked-for one first.

    Raises:
        StoreError: ``version`` exists with other content.
    """
    found = shelf.manifest(version) if version else None
    if found:
        return _same_or_refuse(shelf, found[0], sha256)
    same = [m for m in shelf.manifests() if m.checkpoint_sha256 == sha256]
    return same[-1] if same else None


def _same_or_refuse(shelf: Shelf, manifest: Manifest, sha256: str) -> Manifest:
    if manifest.checkpoint_sha256 != sha256:
        raise StoreError(
            f"version {manifest.version!r} of {shelf.name!r} exists with another checkpoint "
            f"(SHA-256 {manifest.checkpoint_sha256[:12]}, this one has {sha256[:12]}), and "
            "versions never change; choose another version or leave it out"
        )
    return manifest


def _unfinished(shelf: Shelf, sha256: str) -> str | None:
    """A version of this checkpoint, named by us, whose upload did not come to its end."""
    incomplete = [version for version, complete in shelf.uploads().items() if not complete]
    return next((v for v in sorted(incomplete) if v.endswith(f"Z-{sha256[:8]}")), None)


def _version_name(sha256: str) -> str:
    return f"{now():%Y%m%dT%H%M%SZ}-{sha256[:8]}"


def _upload(
    shelf: Shelf, version: str, run_dir: Path, sidecar: Sidecar, evaluation: EvalResult
) -> tuple[Manifest, bool]:
    """Store the files, then the manifest.

    Returns:
        The manifest, and whether somebody else completed the same version first.
    """
    texts = _texts(run_dir)
    files = (
        FileEntry(path=MODEL_NAME, size_bytes=sidecar.size_bytes, sha256=sidecar.sha256),
        *(_entry(name, text) for name, text in texts.items()),
    )
    manifest = Manifest(
        name=shelf.name,
        version=version,
        created_at=timestamp(),
        checkpoint=MODEL_NAME,
        checkpoint_sha256=sidecar.sha256,
        variant=sidecar.variant,
        num_classes=sidecar.num_classes,
        metrics=Metrics(
            top1=evaluation.top1,
            top5=evaluation.top5,
            seen=evaluation.seen,
            split=evaluation.split,
        ),
        data_digest=evaluation.data_digest,
        train_data_digest=sidecar.data_digest,
        code_version=__version__,
        libraries=sidecar.libraries,
        files=files,
        config=read_config(run_dir / CONFIG_NAME).model_dump(mode="json"),
    )
    _claim(shelf, version, sidecar.sha256)
    completed = shelf.manifest(version)
    if completed is None:
        _put_files(shelf, manifest, run_dir, texts)
        completed = _put_manifest(shelf, manifest)
    shelf.store.delete(shelf.key(version, CLAIM_NAME))
    if completed is not None:
        return _same_or_refuse(shelf, completed[0], sidecar.sha256), True
    text = (
        f"published {shelf.uri(version)}, top-1 {evaluation.top1:.2%} on {evaluation.seen} images "
        f"of {evaluation.split}"
    )
    emit(Event(STAGE, text, len(files), len(files)))
    return manifest, False


def _texts(run_dir: Path) -> dict[str, bytes]:
    """The small files of a run folder, by name."""
    found = {}
    for name in (*REQUIRED, *OPTIONAL):
        try:
            found[name] = (run_dir / name).read_bytes()
        except FileNotFoundError as cause:
            if name in REQUIRED:
                raise StoreError(
                    f"run folder {run_dir} has no {name}; publish the folder of a finished run"
                ) from cause
        except OSError as cause:
            raise StoreError(f"{run_dir / name} cannot be read ({os_reason(cause)})") from cause
    return found


def _claim(shelf: Shelf, version: str, sha256: str) -> None:
    """Keep another checkpoint's upload out of the version's folder while this one goes on."""
    claim = Claim(checkpoint_sha256=sha256, by=who(), at=timestamp())
    key = shelf.key(version, CLAIM_NAME)
    try:
        shelf.store.put_bytes(key, claim.to_bytes(), if_none_match=True)
    except Conflict as cause:
        other = shelf.claim(version)
        if other and other.checkpoint_sha256 != sha256:
            raise StoreError(
                f"version {version!r} of {shelf.name!r} holds the unfinished upload of another "
                f"checkpoint (SHA-256 {other.checkpoint_sha256[:12]}, begun {other.at} by "
                f"{other.by}); choose another version, or delete {shelf.uri(version)} if that "
                "upload is dead"
            ) from cause
        if other:  # our own, taken up again: its age counts from now
            shelf.store.put_bytes(key, claim.to_bytes())


def _put_files(shelf: Shelf, manifest: Manifest, run_dir: Path, texts: dict[str, bytes]) -> None:
    total = len(manifest.files)
    for done, file in enumerate(manifest.files):
        size = human_bytes(file.size_bytes)
        emit(Event(STAGE, "", done, total, {"file": file.path, "size": size}))
        key = shelf.key(manifest.version, file.path)
        if file.path in texts:
            shelf.store.put_bytes(key, texts[file.path])
            continue
        shelf.store.put_file(run_dir / file.path, key)
        if sha256_of_file(run_dir / file.path) != file.sha256:
            raise StoreError(
                f"{run_dir / file.path} was changed while it was uploaded; publish again once "
                "nothing writes to the run folder any more"
            )


def _put_manifest(shelf: Shelf, manifest: Manifest) -> tuple[Manifest, bytes] | None:
    """Complete a version; returns the manifest of somebody who was faster."""
    try:
        key = shelf.key(manifest.version, MANIFEST_NAME)
        shelf.store.put_bytes(key, manifest.to_bytes(), if_none_match=True)
    except Conflict:
        return shelf.require(manifest.version)
    return None


def _try_to_promote(shelf: Shelf, version: str, gate: EvaluateConfig) -> str:
    """Promote; returns why not, or an empty string."""
    try:
        _promote(shelf, version, gate, None)
    except (GateRefused, Conflict) as refusal:
        emit(Event(STAGE, str(refusal)))
        return str(refusal)
    return ""


def _promote(shelf: Shelf, version: str, gate: EvaluateConfig, force_reason: str | None) -> Pointer:
    manifest, data = shelf.require(version)
    shelf.require_whole(manifest)
    overtaken = False
    for _ in range(POINTER_TRIES):
        pointer, etag = shelf.pointer() or (None, None)
        if pointer and pointer.manifest_sha256 == sha256_of_bytes(data):
            emit(Event(STAGE, f"{manifest.version} is the production version already"))
            return pointer
        production = _production_to_beat(shelf, manifest, pointer)
        refusal = _refusal(manifest, production, gate)
        if refusal and force_reason is None:
            raise GateRefused(f"version {manifest.version!r} of {shelf.name!r} {refusal}")
        if overtaken and (force_reason is not None or not _is_better(manifest, production)):
            raise _overtaken(shelf, manifest, pointer)
        reason = f"forced: {force_reason}" if refusal else "passed the gate"
        previous = _version_to_return_to(manifest, pointer)
        moved = Pointer.to(manifest, data, previous=previous, reason=reason)
        try:
            shelf.store.put_bytes(
                shelf.pointer_key, moved.to_bytes(), if_match=etag, if_none_match=etag is None
            )
        except Conflict:
            overtaken = True  # look again; only a better model goes on by itself
            continue
        was = f", before it was {previous}" if previous else ""
        emit(Event(STAGE, f"production of {shelf.name} is {manifest.version} now{was} ({reason})"))
        return moved
    raise _overtaken(shelf, manifest, None)


def _is_better(manifest: Manifest, production: Manifest | None) -> bool:
    """Whether a version beats another that was measured on the same data."""
    return production is not None and manifest.metrics.top1 > production.metrics.top1 + ROUNDING


def _overtaken(shelf: Shelf, manifest: Manifest, pointer: Pointer | None) -> Conflict:
    """The error for a promotion that lost to another at the same moment."""
    moved = f" to {pointer.version!r} by {pointer.by} at {pointer.at}" if pointer else " by others"
    return Conflict(
        f"production of {shelf.name!r} was moved{moved} while {manifest.version!r} was to be "
        "promoted, so it was not; promote it again if it is to replace that one"
    )


def _version_to_return_to(manifest: Manifest, pointer: Pointer | None) -> str | None:
    """What a rollback leads to, never the version itself (it may have been published anew)."""
    if pointer is None:
        return None
    return pointer.previous if pointer.version == manifest.version else pointer.version


def _production_to_beat(
    shelf: Shelf, manifest: Manifest, pointer: Pointer | None
) -> Manifest | None:
    """The production version, if there is one to compare with; else it is said why not."""
    if pointer is None or pointer.version == manifest.version:
        return None
    try:
        found = shelf.manifest(pointer.version)
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


def _is_there(out: Path, file: FileEntry, manifest: Manifest) -> bool:
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


def _fetch_file(shelf: Shelf, manifest: Manifest, file: FileEntry, out: Path) -> None:
    try:
        with atomic_path(out / file.path) as temporary:
            shelf.store.get_file(shelf.key(manifest.version, file.path), temporary)
            found = sha256_of_file(temporary)
            if found != file.sha256:
                what = f"not what was published (SHA-256 {found[:12]}, not {file.sha256[:12]})"
                raise shelf.damaged(manifest, file, what)
    except OSError as cause:
        raise StoreError(f"{out / file.path} cannot be written ({os_reason(cause)})") from cause


def _entry(path: str, data: bytes) -> FileEntry:
    return FileEntry(path=path, size_bytes=len(data), sha256=sha256_of_bytes(data))


def _measured_on(manifest: Manifest) -> tuple[str, str]:
    return manifest.data_digest, manifest.metrics.split


def _data_text(manifest: Manifest) -> str:
    return f"{manifest.metrics.split!r} of {manifest.data_digest[:12] or 'unknown data'}"
