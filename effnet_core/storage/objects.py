"""Reading a bucket: listing in pages, and whole objects, tried again where the connection breaks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from effnet_core.errors import StoreBusy, StoreError
from effnet_core.events import Event, emit
from effnet_core.storage.addresses import S3Url, parse_s3
from effnet_core.storage.client import DEFAULT_ACCESS, S3Access, s3_client
from effnet_core.storage.refusals import NOT_S3, explained

TOPIC = "store"
READ_TRIES = 4
FIRST_WAIT_S = 0.5
"""Before the second try of a body that was cut; doubles from then on."""

R = TypeVar("R")


@dataclass(frozen=True)
class StoredObject:
    """One object as the listing of its bucket shows it."""

    key: str
    size_bytes: int
    etag: str
    """Without quotes; the MD5 of the content only for objects that were uploaded in one piece."""
    modified_s: float = 0.0
    """When it was written by the server's clock, seconds since 1970; whole seconds on most servers."""


def list_objects(url: str | S3Url, access: S3Access = DEFAULT_ACCESS) -> Iterator[StoredObject]:
    """Every object whose key starts with that of ``url``, in the order of the keys' bytes.

    Pages of a thousand are fetched as they are needed, so the list need not fit into memory.

    Raises:
        ConfigError: ``url`` is not an address.
        StoreError: the bucket does not exist or cannot be listed.
    """
    place = url if isinstance(url, S3Url) else parse_s3(url)
    client = s3_client(access)
    endpoint = client.meta.endpoint_url
    with explained(f"{place} cannot be listed", endpoint):
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=place.bucket, Prefix=place.key
        )
        try:
            for page in pages:
                page["IsTruncated"]  # what no other server's answer has
                yield from [
                    _described(item["Key"], item["Size"], item) for item in page.get("Contents", ())
                ]
        except (KeyError, ValueError) as cause:
            raise StoreError(f"{place} cannot be listed: the server {endpoint} {NOT_S3}") from cause


def _described(key: str, size: int, facts: Mapping[str, Any]) -> StoredObject:
    return StoredObject(key, size, facts["ETag"].strip('"'), facts["LastModified"].timestamp())


def read_object(url: str | S3Url, access: S3Access = DEFAULT_ACCESS) -> bytes:
    """An object's content; fetched again when it comes cut or damaged.

    Raises:
        StoreError: there is no such object, or the server refuses.
    """
    return read_with_etag(url if isinstance(url, S3Url) else parse_s3(url), access)[0]


def read_with_etag(place: S3Url, access: S3Access) -> tuple[bytes, str]:
    """An object's content and etag.

    Raises:
        StoreError: as ``read_object``.
    """
    client = s3_client(access)

    def read() -> tuple[bytes, str]:
        with explained(f"{place} cannot be read", client.meta.endpoint_url):
            answer = client.get_object(Bucket=place.bucket, Key=place.key)
            with closing(answer["Body"]) as body:  # "with body" would skip its checks
                data = body.read()
        if len(data) != answer["ContentLength"]:
            raise StoreBusy(
                f"{place} came cut: {len(data):,} of {answer['ContentLength']:,} bytes; try again"
            )
        return data, answer["ETag"].strip('"')

    return patiently(read)


def head_object(place: S3Url, access: S3Access = DEFAULT_ACCESS) -> StoredObject | None:
    """An object's size and etag, or None where there is none.

    Raises:
        StoreError: the server refuses.
    """
    from botocore.exceptions import ClientError

    client = s3_client(access)
    with explained(f"{place} cannot be read", client.meta.endpoint_url):
        try:
            facts = client.head_object(Bucket=place.bucket, Key=place.key)
        except ClientError as cause:
            if cause.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
    return _described(place.key, facts["ContentLength"], facts)


def patiently(call: Callable[[], R]) -> R:
    """The result of ``call``, tried again with growing waits while it raises ``StoreBusy``.

    boto3 repeats requests by itself, but not the reading of a body that has begun, and a folder on a
    network share is not repeated by anybody. Each wait is reported as an event.

    Raises:
        StoreBusy: the last try failed, too.
    """
    for attempt in range(1, READ_TRIES):
        try:
            return call()
        except StoreBusy as busy:
            wait_s = FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1)  # noqa: S311
            what = str(busy).removesuffix(" later").removesuffix("; try again")
            again = f"trying again in {wait_s:.1f} s (try {attempt + 1} of {READ_TRIES})"
            emit(Event(TOPIC, f"{what}; {again}"))
            time.sleep(wait_s)
    return call()


def require_object(place: S3Url, access: S3Access) -> StoredObject:
    """As ``head_object``.

    Raises:
        StoreError: there is no such object.
    """
    found = head_object(place, access)
    if found is None:
        raise StoreError(f"{place} does not exist")
    return found
