"""How published models lie in a store: records, their places, and what is said when one is absent.

ROOT/NAME/
  versions/VERSION/
    model.ckpt, model.json   the checkpoint and its sidecar
    model.onnx               the same model for other engines, where storage.onnx asks for it
    model.int8.*             its int8 network (ONNX, OpenVINO), where storage.int8 asks for it
    config.yaml, ...         how it came about
    MODEL_CARD.md, *.png     for people; environment.json: where it was published
    manifest.json            files, digests, metrics; written last and once: it makes the version
  production.json            which version is in use; moved by compare-and-swap

A version without its manifest does not exist for readers; the next try to publish it completes it.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import StoreBusy, StoreDamaged, StoreError
from effnet_core.model_store import mounts
from effnet_core.results.checked import Sha256, first_problem
from effnet_core.storage import LocalStore, Store, open_store, require_key
from effnet_core.text import human_bytes, nearest
from effnet_core.weights.catalogue import PRODUCTION

MANIFEST_NAME = "manifest.json"
POINTER_NAME = "production.json"
CLAIM_NAME = "upload.json"
"""Says whose upload a version without manifest is; gone once the manifest is there."""
NAMES_SHOWN = 10
BY_FORCE = "promote another version with --force and a reason"
MAX_RECORD_BYTES = 16 << 20
"""A record that is larger is not one of ours and is not read into memory."""
VERSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _version_name(name: str) -> str:
    if name == PRODUCTION or not VERSION_NAME.fullmatch(name):
        raise ValueError("is not the name of a version")
    return name


def _path_inside(path: str) -> str:
    """A path that stays in the folder of its version, wherever that is copied to."""
    try:
        require_key(path)
    except StoreError as cause:
        raise ValueError("leaves the folder of its version") from cause
    return path


def _moment(text: str) -> str:
    if moment_of(text).tzinfo is None:
        raise ValueError("has no time zone")
    return text


VersionName = Annotated[str, AfterValidator(_version_name)]
PathInside = Annotated[str, AfterValidator(_path_inside)]
Moment = Annotated[str, AfterValidator(_moment)]
"""UTC, ISO 8601; sorts as text."""
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """JSON in the store; keys of later versions are passed over, nonsense is refused."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The form in which it is stored."""
        return (json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n").encode()


AnyRecord = TypeVar("AnyRecord", bound=Record)


class FileEntry(Record):
    """One file of a version."""

    path: PathInside
    size_bytes: int = Field(ge=0)
    sha256: Sha256

    @classmethod
    def of_bytes(cls, path: str, data: bytes) -> FileEntry:
        """The entry of a file with this content."""
        return cls(path=path, size_bytes=len(data), sha256=sha256_of_bytes(data))


class Metrics(Record):
    """What the gate decides on."""

    top1: Share
    top5: Share | None
    seen: int = Field(ge=1)
    split: str


class VersionManifest(Record):
    """One published version."""

    format: Literal[1] = 1
    name: str
    version: VersionName
    created_at: Moment
    checkpoint: str
    """Which of the files it is."""
    checkpoint_sha256: Sha256
    variant: str
    num_classes: int = Field(ge=1)
    metrics: Metrics
    data_digest: str
    """Digest of the data set that ``metrics`` were measured on."""
    train_data_digest: str
    """Digest of the data set that it was trained on."""
    code_version: str
    """Version of this project, at publication."""
    libraries: dict[str, str]
    """Versions that the checkpoint was made with."""
    files: tuple[FileEntry, ...]
    config: dict[str, Any]

    @model_validator(mode="after")
    def _fits_together(self) -> VersionManifest:
        digests = {file.path: file.sha256 for file in self.files}
        if len(digests) < len(self.files):
            raise ValueError("a file is listed twice")
        if not digests.keys().isdisjoint((MANIFEST_NAME, CLAIM_NAME)):
            raise ValueError("a record of the store itself is among the files")
        if digests.get(self.checkpoint) != self.checkpoint_sha256:
            raise ValueError("the checkpoint is not among the files, or has another SHA-256 there")
        return self


class Pointer(Record):
    """Which version is in production."""

    version: VersionName
    manifest_sha256: Sha256
    previous: VersionName | None
    """Version that a rollback returns to."""
    by: str
    at: Moment
    reason: str
    """Why it was moved, and what it was compared with."""
    checkpoint_sha256: Sha256 | Literal[""] = ""
    """Digest of the promoted model; pointers of earlier versions of this project do not have it."""
    comparison: dict[str, Any] | None = None
    """How it compared with production on the same images, as ``Paired.to_dict`` gives it."""

    @classmethod
    def to(
        cls,
        manifest: VersionManifest,
        data: bytes,
        *,
        previous: str | None,
        reason: str,
        comparison: dict[str, Any] | None = None,
    ) -> Pointer:
        """A pointer to the version whose manifest was read from ``data``."""
        return cls(
            version=manifest.version,
            manifest_sha256=sha256_of_bytes(data),
            previous=previous,
            by=who(),
            at=timestamp(),
            reason=reason,
            checkpoint_sha256=manifest.checkpoint_sha256,
            comparison=comparison,
        )


class Claim(Record):
    """An upload that has begun."""

    checkpoint_sha256: Sha256
    by: str
    at: Moment


@dataclass(frozen=True)
class Unreadable:
    """A version that was published and whose manifest cannot be read now."""

    version: str
    reason: str
    """A sentence."""


@dataclass(frozen=True)
class Registry:
    """The versions of one model in a store."""

    store: Store
    name: str

    @classmethod
    def open(cls, storage: StorageConfig) -> Registry:
        """The place that the settings name; it need not exist yet."""
        return cls(open_store(storage.root, storage.access), storage.name)

    def key(self, version: str, file: str) -> str:
        """The key of a version's file."""
        return f"{self.name}/versions/{version}/{file}"

    @property
    def pointer_key(self) -> str:
        """The key of the production pointer."""
        return f"{self.name}/{POINTER_NAME}"

    def uri(self, version: str) -> str:
        """The address of a version's folder."""
        return f"{self.store.uri}/{self.name}/versions/{version}"

    def uploads(self) -> dict[str, bool]:
        """Every version with at least one file, and whether its manifest is there."""
        prefix = f"{self.name}/versions/"
        found: dict[str, bool] = {}
        for entry in self.store.list(prefix):
            version, _, file = entry.key.removeprefix(prefix).partition("/")
            found[version] = found.get(version, False) or file == MANIFEST_NAME
        return found

    def survey(self) -> tuple[list[VersionManifest], list[Unreadable]]:
        """Every complete version, newest first, and those whose manifests cannot be read.

        Raises:
            StoreBusy: the store does not answer; that says nothing about any version.
        """
        found, unreadable = [], []
        for version, complete in self.uploads().items():
            try:
                manifest = self.manifest(version) if complete else None
            except StoreBusy:
                raise
            except StoreError as error:
                unreadable.append(Unreadable(version, str(error)))
                continue
            if manifest:
                found.append(manifest[0])
        newest_first = sorted(found, key=lambda m: (m.created_at, m.version), reverse=True)
        return newest_first, unreadable

    def manifest(self, version: str) -> tuple[VersionManifest, bytes] | None:
        """A version's manifest and the bytes it was read from, or None without one.

        Raises:
            StoreBusy: the store does not answer.
            StoreDamaged: it is not a manifest, or that of another version.
        """
        key = self.key(version, MANIFEST_NAME)
        found = self._read(key, VersionManifest)
        if found is None:
            return None
        if found[0].version != version:
            raise self._damaged_record(key, f"it is the manifest of {found[0].version!r}")
        return found[:2]

    def pointer(self) -> tuple[Pointer, str] | None:
        """What is in production, and the etag to move it with.

        Raises:
            StoreBusy: the store does not answer, or the share that it was on is not mounted.
            StoreDamaged: it is not a pointer.
        """
        found = self._read(self.pointer_key, Pointer)
        if found is None:
            self.require_mounted()
            return None
        self.remember(found[0])
        return found[0], found[2]

    def require_mounted(self) -> None:
        """Refuse a store in a folder whose production is gone together with the share that it was on.

        Raises:
            StoreBusy: that share is not mounted now.
        """
        if isinstance(self.store, LocalStore) and self.store.head(self.pointer_key) is None:
            mounts.require_mounted(self.store.root, self.name)

    def remember(self, pointer: Pointer) -> None:
        """Note on this machine that a store in a folder has this production, so that it can be missed."""
        if isinstance(self.store, LocalStore):
            mounts.remember(self.store.root, self.name, pointer.version)

    def claim(self, version: str) -> Claim | None:
        """Whose unfinished upload a version is."""
        found = self._read(self.key(version, CLAIM_NAME), Claim)
        return found[0] if found else None

    def require(self, version: str) -> tuple[VersionManifest, bytes]:
        """The manifest of a version or of the one in production, and the bytes it was read from.

        Raises:
            StoreError: there is none, or it is not the one that was promoted.
        """
        pointer = self.require_pointer()[0] if version == PRODUCTION else None
        chosen = pointer.version if pointer else version
        found = self.manifest(chosen)
        if found is None:
            raise self.production_lost(chosen) if pointer else self.unknown(chosen)
        if pointer and sha256_of_bytes(found[1]) != pointer.manifest_sha256:
            raise self.changed_since(chosen, pointer)
        return found

    def require_pointer(self) -> tuple[Pointer, str]:
        """As ``pointer``.

        Raises:
            StoreError: nothing is in production.
        """
        found = self.pointer()
        if found is None:
            versions = self.versions()
            if not versions:
                raise self.unknown_name()
            raise StoreError(
                f"{self.name!r} in model store {self.store.uri} has no production version yet; "
                f"promote one ({known(versions)})"
            )
        return found

    def require_whole(self, manifest: VersionManifest) -> None:
        """Refuse a version of which files are missing or have another size.

        Raises:
            StoreError: naming the first such file.
        """
        sizes = {e.key: e.size_bytes for e in self.store.list(self.key(manifest.version, ""))}
        for file in manifest.files:
            found = sizes.get(self.key(manifest.version, file.path))
            if found != file.size_bytes:
                size = "missing" if found is None else f"{found:,} bytes long"
                raise self.damaged(manifest, file, f"{size}, not {file.size_bytes:,} bytes")

    def names(self) -> list[str]:
        """Models with at least one complete version."""
        parts = (entry.key.split("/") for entry in self.store.list(""))
        return sorted({p[0] for p in parts if p[1:2] == ["versions"] and p[3:] == [MANIFEST_NAME]})

    def versions(self) -> list[str]:
        """Names of the complete versions that can be read, newest first."""
        return [manifest.version for manifest in self.survey()[0]]

    def unknown_name(self) -> StoreError:
        """The error for a model that the store does not have."""
        names = self.names()
        return StoreError(
            f"model store {self.store.uri} has no model {self.name!r}{nearest(self.name, names)} "
            f"({known(names)}); publish it first, or change storage.name or storage.root"
        )

    def unknown(self, version: str) -> StoreError:
        """The error for a version that is not there, saying what is."""
        versions = self.versions()
        if not versions:
            return self.unknown_name()
        if self.uploads().get(version) is False:
            return StoreError(
                f"version {version!r} of {self.name!r} was not uploaded to its end; publish it "
                f"again under that name, or use another ({known(versions)})"
            )
        return StoreError(
            f"model store {self.store.uri} has no version {version!r} of {self.name!r}"
            f"{nearest(version, [*versions, PRODUCTION])} ({known(versions)})"
        )

    def production_lost(self, version: str) -> StoreDamaged:
        """The error for a production version that is gone from the store."""
        return StoreDamaged(
            f"the production version {version!r} of {self.name!r} is gone: {self.uri(version)} has "
            f"no {MANIFEST_NAME}; restore it, or {BY_FORCE} ({known(self.versions())})"
        )

    def changed_since(self, version: str, pointer: Pointer) -> StoreDamaged:
        """The error for a manifest that is not the one that was promoted."""
        return StoreDamaged(
            f"{self.uri(version)}/{MANIFEST_NAME} is not the one that was promoted (its SHA-256 "
            f"is not {pointer.manifest_sha256[:12]}); restore it, or {BY_FORCE}"
        )

    def how_to_force(self, version: str) -> str:
        """The command that promotes a version whatever the gate says, with a reason."""
        where = shlex.join(["--store", self.store.uri, "--name", self.name])
        return f"effnet store promote {version} --force 'the reason' {where}"

    def how_to_compare(self, version: str) -> str:
        """The command that compares a version with production on the same images, and promotes it."""
        where = shlex.join(["--store", self.store.uri, "--name", self.name])
        return f"effnet store promote {version} --data DATA {where}"

    def damaged(self, manifest: VersionManifest, file: FileEntry, what: str) -> StoreError:
        """The error for a file that is not as the manifest describes it."""
        others = [version for version in self.versions() if version != manifest.version]
        instead = f"use another version ({known(others)}), or " if others else ""
        return StoreError(
            f"version {manifest.version!r} of {self.name!r} is damaged: {file.path} is {what}; "
            f"{instead}delete {self.uri(manifest.version)} and publish it again"
        )

    def _read(self, key: str, kind: type[AnyRecord]) -> tuple[AnyRecord, bytes, str] | None:
        entry = self.store.head(require_key(key))
        if entry is None:
            return None
        if entry.size_bytes > MAX_RECORD_BYTES:
            raise self._damaged_record(key, f"it has {human_bytes(entry.size_bytes)}")
        data, etag = self.store.get_bytes(key)
        try:
            return kind.model_validate_json(data), data, etag
        except ValidationError as cause:
            raise self._damaged_record(key, first_problem(cause)) from cause

    def _damaged_record(self, key: str, what: str) -> StoreDamaged:
        how = f"restore it, or {BY_FORCE}" if key == self.pointer_key else "restore or delete it"
        return StoreDamaged(
            f"{self.store.uri}/{key} is damaged or of another version of this project ({what}); {how}"
        )


def known(names: Iterable[str]) -> str:
    """What there is, for a message: some names, and how many more."""
    found = list(names)
    more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
    return f"it has: {', '.join(found[:NAMES_SHOWN])}{more}" if found else "it has none"


def sha256_of_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def moment_of(text: str) -> datetime:
    """The time that ``timestamp`` wrote.

    Raises:
        ValueError: it is not one.
    """
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(timezone.utc)


def timestamp() -> str:
    """The time as it is written into records."""
    return now().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def who() -> str:
    """User and machine, for the record."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
