"""A store in a bucket: keys below a prefix, conditions by ``If-Match`` and ``If-None-Match``."""

from __future__ import annotations

import hashlib
import threading
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_core.errors import Conflict, StoreBusy, StoreError
from effnet_core.storage.addresses import S3Url
from effnet_core.storage.client import S3Access, s3_client, transfer_config
from effnet_core.storage.objects import (
    head_object,
    list_objects,
    patiently,
    read_with_etag,
    require_object,
)
from effnet_core.storage.ranged import Progress, fetch
from effnet_core.storage.refusals import MISSING, code_of, explained
from effnet_core.storage.store import PRIVATE_NAME, Entry, require_key
from effnet_core.system.files import atomic_path, sha256_of_file
from effnet_core.text import os_reason

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ABANDONED_S = 24 * 3600
"""Age at which an unfinished upload belongs to a process that is gone."""

_conditions_hold: set[tuple[str, str]] = set()
"""Servers and buckets whose conditional writes were tried out."""
_probing = threading.Lock()


class S3Store:
    """A store in a bucket. Etags are the server's.

    Every write is one request that the server carries out whole or not at all; a large file becomes
    visible when its last part is there. Conditional writes are tried out before the first one is relied
    on, because some servers ignore the conditions and answer as if they held.
    """

    def __init__(self, place: S3Url, access: S3Access) -> None:
        self.place = S3Url(place.bucket, place.key.strip("/"))
        if self.place.key:
            require_key(self.place.key)
        self.access = access

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return str(self.place)

    @property
    def client(self) -> S3Client:
        """The client of this process."""
        return s3_client(self.access)

    def put_file(self, path: Path, key: str) -> None:
        """Store a file's content, over what was there; one that is there already is not sent again."""
        place = self._place(key)
        if not path.is_file():
            raise StoreError(f"file {path} does not exist, so it cannot be stored as {key}")
        try:
            size, sha256 = path.stat().st_size, sha256_of_file(path)
        except OSError as cause:
            raise StoreError(f"file {path} cannot be read ({os_reason(cause)})") from cause
        if self._holds(place, size, sha256):
            return
        progress = Progress(f"stored {place}", size)
        with explained(f"{place} cannot be written", self.client.meta.endpoint_url):
            self.client.upload_file(
                str(path),
                place.bucket,
                place.key,
                Callback=progress.add,
                ExtraArgs={"Metadata": {"sha256": sha256}},
                Config=transfer_config(),
            )
        found = patiently(lambda: head_object(place, self.access))
        if found is None or found.size_bytes != size:
            has = "is not there" if found is None else f"has {found.size_bytes:,} bytes"
            raise StoreError(
                f"{place} {has} after an upload of {size:,} bytes that the server called complete; "
                "something else writes there, or the server is not to be trusted"
            )

    def get_file(self, key: str, path: Path) -> None:
        """Write an object's content to ``path``, whole or not at all."""
        place = self._place(key)
        try:
            with atomic_path(path) as temporary:
                found = patiently(lambda: require_object(place, self.access))
                progress = Progress(f"fetched {place}", found.size_bytes)
                fetch(place, temporary, self.access, expected=found, arrived=progress.add)
        except OSError as cause:
            raise StoreError(
                f"{place} cannot be copied to {path} ({os_reason(cause)}); choose a folder that can "
                "be written to and has room"
            ) from cause

    def put_bytes(
        self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False
    ) -> str:
        """Store bytes, and return their etag.

        Raises:
            Conflict: the object exists (``if_none_match``), or is not the one that was read
                (``if_match``); nothing was changed.
            StoreError: the server ignores such conditions, so that two writers could both win.
        """
        if if_match is not None and if_none_match:
            raise ValueError("if_match and if_none_match exclude each other")
        place = self._place(key)
        condition: dict[str, Any] = {}
        if if_match is not None:
            condition["IfMatch"] = if_match
        elif if_none_match:
            condition["IfNoneMatch"] = "*"
        if condition:
            self._require_conditions()
        try:
            return self._put(place, data, condition)
        except Conflict as cause:
            return self._own_or_refuse(place, data, cause, if_none_match)

    def get_bytes(self, key: str) -> tuple[bytes, str]:
        """An object's content and etag."""
        place = self._place(key)
        try:
            return read_with_etag(place, self.access)
        except StoreError as error:
            if code_of(error.__cause__ or error) in MISSING:  # type: ignore[arg-type]
                raise StoreError(f"model store {self.uri} has no {key}") from error
            raise

    def list(self, prefix: str) -> tuple[Entry, ...]:
        """Every object whose key starts with ``prefix``, sorted by key."""
        start = f"{self.place.key}/" if self.place.key else ""
        place = S3Url(self.place.bucket, start + prefix)
        found = patiently(lambda: list(list_objects(place, self.access)))
        entries = (Entry(item.key[len(start) :], item.size_bytes) for item in found)
        kept = (e for e in entries if not e.key.startswith(f"{PRIVATE_NAME}/"))
        return tuple(sorted(kept, key=lambda entry: entry.key))

    def head(self, key: str) -> Entry | None:
        """An object's size, or None where there is no such object."""
        place = self._place(key)
        found = patiently(lambda: head_object(place, self.access))
        return Entry(key, found.size_bytes) if found else None

    def delete(self, key: str) -> None:
        """Remove an object; a missing one is not an error."""
        place = self._place(key)
        with explained(f"{place} cannot be deleted", self.client.meta.endpoint_url):
            self.client.delete_object(Bucket=place.bucket, Key=place.key)

    def sweep(self, older_than_s: float = ABANDONED_S) -> int:
        """Abort uploads in parts that nobody continues with, delete lost probes, and count both.

        Args:
            older_than_s: younger ones may still be at work.
        """
        limit = datetime.now(timezone.utc) - timedelta(seconds=older_than_s)
        start = f"{self.place.key}/" if self.place.key else ""
        count = 0
        endpoint = self.client.meta.endpoint_url
        with explained(f"what killed writers left in {self.place} cannot be swept", endpoint):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.place.bucket, Prefix=start
            )
            for upload in [item for page in pages for item in page.get("Uploads", ())]:
                if upload["Initiated"] <= limit:
                    self.client.abort_multipart_upload(
                        Bucket=self.place.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    count += 1
            own = self.client.list_objects_v2(
                Bucket=self.place.bucket, Prefix=f"{start}{PRIVATE_NAME}/"
            )
            for probe in own.get("Contents", ()):
                if probe["LastModified"] <= limit:
                    self.client.delete_object(Bucket=self.place.bucket, Key=probe["Key"])
                    count += 1
        return count

    def _place(self, key: str) -> S3Url:
        return self.place.join(require_key(key))

    def _put(self, place: S3Url, data: bytes, condition: dict[str, Any]) -> str:
        with explained(f"{place} cannot be written", self.client.meta.endpoint_url):
            answer = self.client.put_object(
                Bucket=place.bucket,
                Key=place.key,
                Body=data,
                Metadata={"sha256": hashlib.sha256(data).hexdigest()},
                **condition,
            )
        return answer["ETag"].strip('"')

    def _own_or_refuse(
        self, place: S3Url, data: bytes, cause: Conflict, if_none_match: bool
    ) -> str:
        """The etag, if the refused content is there: an answer was lost and boto3 tried again."""
        try:
            found, etag = read_with_etag(place, self.access)
        except StoreBusy:
            raise
        except StoreError:
            raise cause from cause.__cause__
        if found == data:
            return etag
        if if_none_match:
            raise Conflict(
                f"{place} exists already and is never overwritten; choose another name"
            ) from cause
        raise Conflict(
            f"{place} was changed by somebody else; read it again and decide anew"
        ) from cause

    def _holds(self, place: S3Url, size: int, sha256: str) -> bool:
        """Whether a whole object of that content is there, by what its uploader noted."""
        from botocore.exceptions import ClientError

        with explained(f"{place} cannot be written", self.client.meta.endpoint_url):
            try:
                facts = self.client.head_object(Bucket=place.bucket, Key=place.key)
            except ClientError as cause:
                if cause.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return False
                raise
        return facts["ContentLength"] == size and facts["Metadata"].get("sha256") == sha256

    def _require_conditions(self) -> None:
        """Try both conditions out on an object of our own, once for each server and bucket.

        Raises:
            StoreError: the server does not keep them.
        """
        tried = (self.client.meta.endpoint_url, self.place.bucket)
        with _probing:
            if tried in _conditions_hold:
                return
            place = self.place.join(f"{PRIVATE_NAME}/probe-{uuid.uuid4().hex}")
            try:
                first = self._put(place, b"1", {"IfNoneMatch": "*"})
                kept = self._is_refused(place, {"IfNoneMatch": "*"})
                wrong = "0" * len(first)
                kept = kept and self._is_refused(place, {"IfMatch": wrong})
            finally:
                with explained(f"{place} cannot be deleted", self.client.meta.endpoint_url):
                    self.client.delete_object(Bucket=place.bucket, Key=place.key)
            if not kept:
                raise StoreError(
                    f"the server of {self.uri} ignores conditional writes (If-None-Match, If-Match), "
                    "so two publishers could both win; use a server that keeps them, or a folder"
                )
            _conditions_hold.add(tried)

    def _is_refused(self, place: S3Url, condition: dict[str, Any]) -> bool:
        try:
            self._put(place, b"2", condition)
        except Conflict:
            return True
        return False
