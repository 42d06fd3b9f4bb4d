"""Objects and parts of them, fast: a native client for the common case, boto3 where it cannot be used.

boto3 spends about 3 ms of interpreter time on each request, which threads share. obstore does the same
outside the interpreter and is several times faster. What it refuses for whatever reason is asked of
boto3 again, whose answer is the one that people read.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any

from effnet_core.errors import StoreBusy
from effnet_core.storage.addresses import S3Url
from effnet_core.storage.client import S3Access, is_aws, key_pairs, s3_client
from effnet_core.storage.objects import StoredObject, patiently, read_object
from effnet_core.storage.refusals import explained

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3Store
    from typing_extensions import Buffer

SMALL_BYTES = 8 << 20
"""Larger objects travel in parts, where boto3 is as fast."""
PIECE_BYTES = 1 << 20
THREADS = 32
MD5_ETAG = re.compile(r"[0-9a-f]{32}")
TIMEOUT = "60s"


class Bulk:
    """One bucket's small objects; for many threads at once."""

    def __init__(self, bucket: str, access: S3Access) -> None:
        self.bucket = bucket
        self.access = access
        self._native = _native_store(bucket, access)

    def get(self, found: StoredObject) -> bytes:
        """A listed object's content, as long as the listing said.

        Raises:
            StoreError: it is gone, has changed, or the server refuses.
        """
        data = self._native_get(found)
        if data is None:
            place = S3Url(self.bucket, found.key)
            data = read_object(place, self.access)
            if len(data) != found.size_bytes:
                raise StoreBusy(
                    f"{place} has {len(data):,} bytes, {found.size_bytes:,} when it was listed; it is "
                    "being changed, try again"
                )
        return data

    def copy_range(self, found: StoredObject, start: int, stop: int, handle: int) -> bool:
        """Write bytes ``start`` to ``stop`` of an object that still has its etag into an open file.

        They pass in pieces of a megabyte, since larger buffers cost more in fresh memory than they save.

        Returns:
            Whether all of them arrived; else boto3 is to be asked.

        Raises:
            OSError: the disk refuses.
        """
        if self._native is None:
            return False
        from obstore.exceptions import BaseError

        options: GetOptions = {"if_match": f'"{found.etag}"', "range": (start, stop)}
        try:
            pieces = iter(self._native.get(found.key, options=options).stream(PIECE_BYTES))
        except (BaseError, OSError, ValueError):
            return False
        while start < stop:
            try:
                piece = next(pieces, b"")
            except (BaseError, OSError, ValueError):
                return False
            size = memoryview(piece).nbytes
            if not 0 < size <= stop - start:
                return False
            write_at(handle, piece, start)
            start += size
        return True

    def put(self, key: str, data: bytes) -> None:
        """Store bytes, over what was there.

        Raises:
            StoreError: the server refuses.
        """
        if self._native_put(key, data):
            return
        client = s3_client(self.access)
        place = S3Url(self.bucket, key)

        def put() -> None:
            with explained(f"{place} cannot be written", client.meta.endpoint_url):
                client.put_object(Bucket=self.bucket, Key=key, Body=data)

        patiently(put)

    def _native_get(self, found: StoredObject) -> bytes | None:
        """The content, or None where it is to be fetched by boto3."""
        if self._native is None:
            return None
        from obstore.exceptions import BaseError

        try:
            data = self._native.get(found.key).bytes().to_bytes()
        except (BaseError, OSError, ValueError):
            return None
        return data if _is_whole(data, found) else None

    def _native_put(self, key: str, data: bytes) -> bool:
        if self._native is None:
            return False
        from obstore.exceptions import BaseError

        try:
            self._native.put(key, data)
        except (BaseError, OSError, ValueError):
            return False
        return True


def write_at(handle: int, data: Buffer, offset: int) -> None:
    """Write all of ``data`` at a place of an open file.

    Raises:
        OSError: the disk refuses.
    """
    rest = memoryview(data)
    while rest:
        done = os.pwrite(handle, rest, offset)
        rest, offset = rest[done:], offset + done


def _is_whole(data: bytes, found: StoredObject) -> bool:
    """Whether length and, where the etag is one, MD5 are those of the listing.

    Servers that encrypt give other etags; then boto3 compares the checksum that the server sends.
    """
    if len(data) != found.size_bytes or not MD5_ETAG.fullmatch(found.etag):
        return False
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == found.etag


def _native_store(bucket: str, access: S3Access) -> S3Store | None:
    """Obstore's view of a bucket, with the credentials and the endpoint that boto3 would use."""
    try:
        from obstore.store import S3Store
    except ImportError:  # no wheel for this platform
        return None
    client = s3_client(access)
    current = key_pairs(client)
    if current is None:
        return None
    endpoint = client.meta.endpoint_url
    own: dict[str, Any] = {} if is_aws(endpoint) else {"endpoint": endpoint}

    def provide() -> Any:
        pair = current()
        return {
            "access_key_id": pair.access_key_id,
            "secret_access_key": pair.secret_access_key,
            "token": pair.session_token,
            "expires_at": None,
        }

    return S3Store(
        bucket,
        region=client.meta.region_name,
        virtual_hosted_style_request=is_aws(endpoint),
        checksum_algorithm="SHA256",
        client_options={"allow_http": endpoint.startswith("http:"), "timeout": TIMEOUT},
        retry_config={"max_retries": 2},
        credential_provider=provide,
        **own,
    )
