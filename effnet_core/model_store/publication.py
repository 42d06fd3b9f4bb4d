"""Publication: a run's model becomes a version that never changes.

``registry.py`` draws the layout. Files are stored first and the manifest last, so a reader never sees
half a version.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from effnet_core import __version__
from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import Conflict, GateRefused, StoreBusy, StoreDamaged, StoreError
from effnet_core.events import Event, emit
from effnet_core.jobs.job import METRICS_NAME, RESULT_NAME
from effnet_core.model_store.card import describe
from effnet_core.model_store.production import Compare, move_pointer
from effnet_core.model_store.registry import (
    CLAIM_NAME,
    MANIFEST_NAME,
    VERSION_NAME,
    Claim,
    FileEntry,
    Metrics,
    Registry,
    VersionManifest,
    now,
    timestamp,
    who,
)
from effnet_core.results import EvalResult
from effnet_core.results.drift import REFERENCE_NAME
from effnet_core.results.paired import Paired
from effnet_core.system.files import read_jsonl, sha256_of_file
from effnet_core.system.locks import scratch_folder
from effnet_core.text import human_bytes, os_reason
from effnet_core.weights import quantized
from effnet_core.weights.catalogue import PRODUCTION
from effnet_core.weights.checkpoint import (
    MODEL_NAME,
    Checkpoint,
    Sidecar,
    open_checkpoint,
    sidecar_path,
)

TOPIC = "publish"

REQUIRED = (sidecar_path(Path(MODEL_NAME)).name, CONFIG_NAME)
OPTIONAL = (METRICS_NAME, RESULT_NAME, REFERENCE_NAME)
"""Files of a run folder that are published beside the checkpoint."""

ONNX_NAME = "model.onnx"
NOT_ASKED = "promotion was not asked for"


@dataclass(frozen=True)
class PublishedVersion:
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
    gate: str = ""
    """Where it was promoted: how that was decided, and what it was compared with."""
    production: str = ""
    """The version in production afterwards; empty where there is none, or none that can be read."""


def publish_model(
    run_dir: Path,
    *,
    evaluation: EvalResult,
    storage: StorageConfig,
    gate: EvaluateConfig,
    version: str | None = None,
    promote: bool = True,
    compare: Compare | None = None,
) -> PublishedVersion:
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
        compare: compares it with production on the same images; the card and the pointer say how that
            ended.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ExportError: ``storage.onnx`` is set, and the ONNX file does not agree with MindSpore.
        StoreError: the evaluation is of another checkpoint, the version exists with other content,
            or the store refuses.
        StoreBusy: the store does not answer; the same call takes up what is published already.
        EffnetError: production could not be measured; likewise.
    """
    checkpoint = open_checkpoint(run_dir / MODEL_NAME)
    sidecar = checkpoint.sidecar
    _require_evaluation_of(sidecar, evaluation, run_dir)
    _require_version_name(version)
    registry = Registry.open(storage)
    registry.require_mounted()
    manifest, reused = _published_already(registry, sidecar.sha256, version), True
    if manifest is None:
        found = _compare_first(registry, sidecar.sha256, compare) if promote else None
        chosen = version or _unfinished(registry, sidecar.sha256) or _version_name(sidecar.sha256)
        with _onnx_of(checkpoint, wanted=storage.onnx) as onnx:
            manifest, reused = _upload(registry, chosen, run_dir, sidecar, evaluation, onnx, found)
    uri = registry.uri(manifest.version)
    if reused:
        emit(Event(TOPIC, f"this checkpoint is published already, as {uri}", 1, 1))
    reason, decision = (
        _try_to_promote(registry, manifest.version, gate, compare) if promote else (NOT_ASKED, "")
    )
    return PublishedVersion(
        name=registry.name,
        version=manifest.version,
        uri=uri,
        promoted=not reason,
        reused=reused,
        reason=reason,
        top1=manifest.metrics.top1,
        gate=decision,
        production=_in_production(registry),
    )


def _in_production(registry: Registry) -> str:
    """The version in production; empty where there is none, or where the gate has just found it damaged."""
    try:
        found = registry.pointer()
    except StoreDamaged:
        return ""
    return found[0].version if found else ""


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


def _published_already(
    registry: Registry, sha256: str, version: str | None
) -> VersionManifest | None:
    """The version that holds this checkpoint, the asked-for one first.

    Raises:
        StoreError: ``version`` exists with other content.
    """
    found = registry.manifest(version) if version else None
    if found:
        return _same_or_refuse(registry, found[0], sha256)
    manifests, unreadable = registry.survey()
    same = [m for m in manifests if m.checkpoint_sha256 == sha256]
    if not same:
        for lost in unreadable:
            text = f"whether version {lost.version!r} holds this checkpoint is not known"
            emit(Event(TOPIC, f"{text}: {lost.reason}"))
    return same[-1] if same else None


def _same_or_refuse(registry: Registry, manifest: VersionManifest, sha256: str) -> VersionManifest:
    if manifest.checkpoint_sha256 != sha256:
        raise StoreError(
            f"version {manifest.version!r} of {registry.name!r} exists with another checkpoint "
            f"(SHA-256 {manifest.checkpoint_sha256[:12]}, this one has {sha256[:12]}), and "
            "versions never change; choose another version or leave it out"
        )
    return manifest


def _unfinished(registry: Registry, sha256: str) -> str | None:
    """A version of this checkpoint, named by us, whose upload did not come to its end."""
    incomplete = [version for version, complete in registry.uploads().items() if not complete]
    return next((v for v in sorted(incomplete) if v.endswith(f"Z-{sha256[:8]}")), None)


def _version_name(sha256: str) -> str:
    return f"{now():%Y%m%dT%H%M%SZ}-{sha256[:8]}"


def _upload(
    registry: Registry,
    version: str,
    run_dir: Path,
    sidecar: Sidecar,
    evaluation: EvalResult,
    onnx: Path | None,
    found: Paired | None,
) -> tuple[VersionManifest, bool]:
    """Store the files, then the manifest.

    Returns:
        The manifest, and whether somebody else completed the same version first.
    """
    texts = _texts(run_dir)
    _claim(registry, version, sidecar.sha256)
    described = describe(
        registry.name,
        version,
        sidecar,
        evaluation,
        read_jsonl(run_dir / METRICS_NAME),
        found,
    )
    texts |= {name: _put_first(registry, version, name, text) for name, text in described.items()}
    exports = {**({ONNX_NAME: onnx} if onnx else {}), **_int8_of(run_dir, sidecar)}
    paths = {MODEL_NAME: run_dir / MODEL_NAME, **exports}
    files = (
        FileEntry(path=MODEL_NAME, size_bytes=sidecar.size_bytes, sha256=sidecar.sha256),
        *(FileEntry.of_bytes(name, text) for name, text in texts.items()),
        *(_entry(name, path) for name, path in exports.items()),
    )
    manifest = VersionManifest(
        name=registry.name,
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
    completed = registry.manifest(version)
    if completed is None:
        _put_files(registry, manifest, paths, texts)
        completed = _put_manifest(registry, manifest)
    registry.store.delete(registry.key(version, CLAIM_NAME))
    if completed is not None:
        return _same_or_refuse(registry, completed[0], sidecar.sha256), True
    text = (
        f"published {registry.uri(version)}, top-1 {evaluation.top1:.2%} on {evaluation.seen} images "
        f"of {evaluation.split}"
    )
    emit(Event(TOPIC, text, len(files), len(files)))
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


def _claim(registry: Registry, version: str, sha256: str) -> None:
    """Keep another checkpoint's upload out of the version's folder while this one continues."""
    claim = Claim(checkpoint_sha256=sha256, by=who(), at=timestamp())
    key = registry.key(version, CLAIM_NAME)
    try:
        registry.store.put_bytes(key, claim.to_bytes(), if_none_match=True)
    except Conflict as cause:
        other = registry.claim(version)
        if other and other.checkpoint_sha256 != sha256:
            raise StoreError(
                f"version {version!r} of {registry.name!r} holds the unfinished upload of another "
                f"checkpoint (SHA-256 {other.checkpoint_sha256[:12]}, begun {other.at} by "
                f"{other.by}); choose another version, or delete {registry.uri(version)} if that "
                "upload is dead"
            ) from cause
        if other:  # our own, taken up again: its age counts from now
            registry.store.put_bytes(key, claim.to_bytes())


def _put_first(registry: Registry, version: str, name: str, text: bytes) -> bytes:
    """Store a file that was made here, unless another publisher of this checkpoint was faster.

    Returns:
        What is in the store now, which the manifest must describe.
    """
    key = registry.key(version, name)
    try:
        registry.store.put_bytes(key, text, if_none_match=True)
    except Conflict:
        return registry.store.get_bytes(key)[0]
    return text


@contextmanager
def _onnx_of(checkpoint: Checkpoint, *, wanted: bool) -> Iterator[Path | None]:
    """The model as ONNX, compared with MindSpore, in a folder for the time of the block."""
    if not wanted:
        yield None
        return
    from effnet_core.export.export import export

    with scratch_folder("publish") as folder:
        path = folder / ONNX_NAME
        agreement = export(checkpoint, path, format="onnx")
        emit(Event(TOPIC, f"{ONNX_NAME} {agreement}"))
        yield path


def _put_files(
    registry: Registry,
    manifest: VersionManifest,
    paths: dict[str, Path],
    texts: dict[str, bytes],
) -> None:
    """Store what the manifest lists, and say how fast the large files went."""
    total = len(manifest.files)
    for done, file in enumerate(manifest.files):
        size = human_bytes(file.size_bytes)
        emit(Event(TOPIC, "", done, total, {"file": file.path, "size": size}))
        key = registry.key(manifest.version, file.path)
        if file.path in texts:
            registry.store.put_bytes(key, texts[file.path])
            continue
        path = paths[file.path]
        begun = time.monotonic()
        registry.store.put_file(path, key)
        speed = file.size_bytes / 1e6 / max(time.monotonic() - begun, 1e-6)
        emit(Event(TOPIC, f"stored {file.path}, {size} at {speed:.1f} MB/s"))
        if sha256_of_file(path) != file.sha256:
            raise StoreError(
                f"{path} was changed while it was uploaded; publish again once "
                "nothing writes to the run folder any more"
            )


def _put_manifest(
    registry: Registry, manifest: VersionManifest
) -> tuple[VersionManifest, bytes] | None:
    """Complete a version; returns the manifest of somebody who was faster."""
    try:
        key = registry.key(manifest.version, MANIFEST_NAME)
        registry.store.put_bytes(key, manifest.to_bytes(), if_none_match=True)
    except Conflict:
        return registry.require(manifest.version)
    return None


def _compare_first(registry: Registry, sha256: str, compare: Compare | None) -> Paired | None:
    """How a model that is not published yet compares with production, for its card.

    Raises:
        StoreBusy: the store does not answer.
        EffnetError: production could not be measured.
    """
    if compare is None:
        return None
    try:
        if (pointer := registry.pointer()) is None or pointer[0].checkpoint_sha256 == sha256:
            return None
        return compare(registry.require(pointer[0].version)[0])
    except StoreBusy:
        raise
    except StoreError:  # damaged: the gate says so, and stays closed
        return None


def _try_to_promote(
    registry: Registry, version: str, gate: EvaluateConfig, compare: Compare | None
) -> tuple[str, str]:
    """Promote; returns why not, or an empty text and how it was decided."""
    try:
        return "", move_pointer(registry, version, gate, compare=compare).reason
    except (GateRefused, Conflict) as refusal:
        emit(Event(TOPIC, str(refusal)))
        return str(refusal), ""


def _int8_of(run_dir: Path, sidecar: Sidecar) -> dict[str, Path]:
    """The files of the int8 network that lies beside a checkpoint, verified."""
    if quantized.path_of(Checkpoint(run_dir / MODEL_NAME, sidecar)) is None:
        return {}
    paths = {name: run_dir / name for name in quantized.NAMES}
    return {name: path for name, path in paths.items() if path.is_file()}


def _entry(name: str, path: Path) -> FileEntry:
    return FileEntry(path=name, size_bytes=path.stat().st_size, sha256=sha256_of_file(path))
