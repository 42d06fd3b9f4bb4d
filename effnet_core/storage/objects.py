"""Reading a bucket: listing in pages, and whole objects, tried again where the connection breaks."""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote_plus, urlsplit

from effnet_core.errors import StoreBusy, StoreError
from effnet_core.events import Event, emit
from effnet_core.storage.addresses import S3Url, parse_s3
from effnet_core.storage.client import (
    DEFAULT_ACCESS,
    Reach,
    S3Access,
    reach_by_environment,
    s3_client,
)
from effnet_core.storage.refusals import NOT_S3, explained

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from xml.etree.ElementTree import Element

STAGE = "store"
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
    with explained(f"{place} cannot be listed", client.meta.endpoint_url):
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=place.bucket, Prefix=place.key
        )
        for page in pages:
            if "IsTruncated" not in page:
                raise StoreError(
                    f"{place} cannot be listed: the server {client.meta.endpoint_url} {NOT_S3}"
                )
            for item in page.get("Contents", ()):
                yield _described(item["Key"], item["Size"], item)


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
    network share is not repeated by anybody. Each wait is told as an event.

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
            emit(Event(STAGE, f"{what}; {again}"))
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


PAGE = 1000
"""Keys of one answer; servers give no more."""
TIMEOUT_S = 10
"""Seconds a page may take; then boto3 tries with its own patience."""
EMPTY_SHA256 = hashlib.sha256().hexdigest()
ALGORITHM = "AWS4-HMAC-SHA256"
UNRESERVED = "-_.~"


class _Unexpected(Exception):
    """The server's answer is not one that is understood here."""


def list_all(place: S3Url, access: S3Access) -> list[StoredObject]:
    """Every object whose key starts with that of ``place``, as ``list_objects`` gives them.

    Raises:
        ConfigError: the settings cannot be used.
        StoreError: the bucket does not exist or cannot be listed.
    """
    reach = reach_by_environment(access)
    if reach is not None:
        try:
            return list(_pages(place, reach))
        except (OSError, ValueError, LookupError, SyntaxError, _Unexpected):
            pass  # a ParseError of XML is a SyntaxError
    return list(list_objects(place, access))


def _pages(place: S3Url, reach: Reach) -> Iterator[StoredObject]:
    from xml.etree import ElementTree

    query = {"encoding-type": "url", "list-type": "2", "max-keys": f"{PAGE}", "prefix": place.key}
    with closing(_connect(reach)) as connection:
        while True:
            body = _answer(connection, place.bucket, query, reach)
            page = ElementTree.fromstring(body)  # noqa: S314 - boto3 reads it with the same parser
            yield from _objects(page)
            if _text(page, "IsTruncated") == "false":
                return
            query["continuation-token"] = _text(page, "NextContinuationToken")


def _connect(reach: Reach) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection

    parts = urlsplit(reach.endpoint_url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return kind(parts.netloc, timeout=TIMEOUT_S)


def _answer(connection: HTTPConnection, bucket: str, query: dict[str, str], reach: Reach) -> bytes:
    from http.client import HTTPException

    path = f"/{bucket}"
    search = "&".join(f"{name}={quote(query[name], safe=UNRESERVED)}" for name in sorted(query))
    host = urlsplit(reach.endpoint_url).netloc
    try:
        connection.request("GET", f"{path}?{search}", headers=_signed(path, search, host, reach))
        answer = connection.getresponse()
        body = answer.read()
    except HTTPException as cause:
        raise _Unexpected from cause
    if answer.status != 200:
        raise _Unexpected
    return body


def _signed(path: str, search: str, host: str, reach: Reach) -> dict[str, str]:
    """Headers of a request without a body, its signature among them.

    Source: AWS, Signature Version 4 for authorization headers.
    """
    credentials = reach.credentials()
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": host, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": moment}
    if credentials.session_token:
        headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(headers)  # in the order of the alphabet
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = "\n".join(("GET", path, search, lines, names, EMPTY_SHA256))
    scope = (moment[:8], reach.region, "s3", "aws4_request")
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope:
        key = _hmac(key, part)
    digest = hashlib.sha256(request.encode()).hexdigest()
    signature = _hmac(key, "\n".join((ALGORITHM, moment, "/".join(scope), digest))).hex()
    headers["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{'/'.join(scope)}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")


def _objects(page: Element) -> Iterator[StoredObject]:
    encoded = page.findtext("{*}EncodingType") == "url"
    for item in page.iterfind("{*}Contents"):
        facts = {child.tag.rpartition("}")[2]: child.text or "" for child in item}
        key = unquote_plus(facts["Key"], errors="strict") if encoded else facts["Key"]
        moment = datetime.fromisoformat(facts["LastModified"].replace("Z", "+00:00"))
        yield StoredObject(key, int(facts["Size"]), facts["ETag"].strip('"'), moment.timestamp())


def _text(page: Element, name: str) -> str:
    """The text of an element that has to be there."""
    text = page.findtext(f"{{*}}{name}")
    if not text:
        raise _Unexpected
    return text
