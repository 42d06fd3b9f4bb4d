"""Listing a bucket without boto3: one signed request a page, read by the standard library.

boto3's description of S3 takes longer to load than a listing takes. Whatever is not as expected is
asked of boto3 again, whose answer is the one that people read.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus, urlsplit

from effnet_core.storage.addresses import S3Url
from effnet_core.storage.client import S3Access
from effnet_core.storage.objects import StoredObject, list_objects
from effnet_core.storage.reach import Reach, reach_by_environment

if TYPE_CHECKING:
    from http.client import HTTPConnection
    from xml.etree.ElementTree import Element

PAGE = 1000
"""Keys of one answer; servers give no more."""
TIMEOUT_S = 10
"""Of a page; then boto3 tries with its own patience."""
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
