"""The one place that makes an S3 client: how it finds the server, how it waits, what it logs."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from effnet_core.errors import ConfigError
from effnet_core.storage.addresses import without_userinfo
from effnet_core.storage.refusals import explained

if TYPE_CHECKING:
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config
    from botocore.loaders import Loader
    from botocore.session import Session
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 5
"""Requests in all, the first one counted; waits between them double."""
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 60
CONNECTIONS = 32
FALLBACK_REGION = "us-east-1"
AWS_HOST = re.compile(r"\.amazonaws\.com(\.cn)?$")

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables that name the server, as boto3 reads them."""

Checksums: TypeAlias = Literal["when_supported", "when_required"]

NOISY_LOGGERS = ("botocore", "boto3", "s3transfer", "urllib3")
"""At DEBUG they write key ids, session tokens and signatures."""


@dataclass(frozen=True)
class S3Access:
    """How to reach an object store; what is None is found by boto3's own chain."""

    endpoint_url: str | None = None
    profile: str | None = None
    region: str | None = None
    checksums: Checksums = "when_supported"
    anonymous: bool = False
    """Ask without credentials, as public buckets allow."""
    requester_pays: bool = False
    """Agree to pay for requests to a bucket whose owner does not."""


DEFAULT_ACCESS = S3Access()

_clients: dict[tuple[object, ...], S3Client] = {}
_lock = threading.Lock()


def s3_client(access: S3Access = DEFAULT_ACCESS) -> S3Client:
    """A client for all threads of this process; the same one for the same settings.

    Raises:
        ConfigError: the endpoint is not an address, or the profile is unknown.
        StoreError: there are no credentials.
    """
    key = (access, in_use(), os.getpid(), _environment_digest())
    with _lock:
        if key not in _clients:
            _clients[key] = _make(access)
        return _clients[key]


def _make(access: S3Access) -> S3Client:
    import boto3

    _require_endpoint(access.endpoint_url)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    given = in_use()
    with explained("the S3 client cannot be set up", access.endpoint_url or ""):
        session = boto3.Session(
            botocore_session=_botocore_session(),
            profile_name=access.profile,
            region_name=access.region,
            aws_access_key_id=given.access_key_id if given else None,
            aws_secret_access_key=given.secret_access_key if given else None,
            aws_session_token=given.session_token if given else None,
        )
        region = session.region_name or FALLBACK_REGION

        def build(config: Config) -> S3Client:
            client = session.client(
                "s3", endpoint_url=access.endpoint_url, region_name=region, config=config
            )
            if access.requester_pays:
                client.meta.events.register("before-call.s3", _agree_to_pay)
            return client

        # Servers other than AWS are rarely set up for buckets as host names.
        named = access.endpoint_url or next(filter(None, map(os.environ.get, ENDPOINTS)), None)
        if named and not is_aws(named):
            return build(_config(access, "path"))
        client = build(_config(access, "auto"))
        if is_aws(client.meta.endpoint_url):
            return client
        return build(_config(access, "path"))  # a profile names the server


def _agree_to_pay(params: dict[str, Any], **_: Any) -> None:
    """Say so with a request, before it is signed."""
    params["headers"]["x-amz-request-payer"] = "requester"


def _botocore_session() -> Session:
    """A session whose listings read dates quickly: that is most of the work of a page of a thousand."""
    from botocore.session import get_session
    from botocore.utils import parse_timestamp

    def parse(value: Any) -> datetime:
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00"))
        except (AttributeError, ValueError):  # seconds since 1970, or a date as in headers
            moment: datetime = parse_timestamp(value)
            return moment

    session = get_session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    factory = session.get_component("response_parser_factory")
    factory.set_parser_defaults(timestamp_parser=parse)
    return session


@cache
def _loader(data_path: str | None) -> Loader:
    """What reads the description of S3, once for all clients: it takes 5 MB in each."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def is_aws(url: str) -> bool:
    """Whether an address is one of AWS itself."""
    return bool(AWS_HOST.search(urlsplit(url).hostname or ""))


def _config(access: S3Access, addressing: Literal["auto", "path"]) -> Config:
    from botocore import UNSIGNED
    from botocore.config import Config

    return Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        signature_version=UNSIGNED if access.anonymous else "s3v4",
        s3={"addressing_style": addressing},
        request_checksum_calculation=access.checksums,
        response_checksum_validation=access.checksums,
    )


def _require_endpoint(url: str | None) -> None:
    if url is None:
        return
    shown = without_userinfo(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"storage.endpoint_url={shown!r} is not an address of a server; give one that starts with "
            "http:// or https://, such as https://s3.example.org"
        )
    if parts.username is not None:
        raise ConfigError(
            f"storage.endpoint_url={shown!r} holds credentials, and settings are logged; leave them "
            "out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )


def _environment_digest() -> str:
    """Changes with every variable that boto3 reads, so that no client outlives its settings."""
    digest = hashlib.sha256()
    for name in sorted(name for name in os.environ if name.startswith("AWS_")):
        digest.update(f"{name}={os.environ[name]}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def key_pairs(client: S3Client) -> Callable[[], Credentials] | None:
    """What gives the key pair of a client at each moment (that of a role changes), or None without one."""
    chain: Any = client._get_credentials()  # type: ignore[attr-defined]
    if chain is None:
        return None

    def current() -> Credentials:
        pair = chain.get_frozen_credentials()
        return Credentials(pair.access_key, pair.secret_key, pair.token)

    return current


PART_BYTES = 8 << 20
"""Larger files travel in parts of this size; twice the size was slower in every round that was tried."""
PART_THREADS = 10


def transfer_config() -> TransferConfig:
    """How large files travel. The C runtime's client is never chosen: it ignores endpoints."""
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PART_THREADS,
        preferred_transfer_client="classic",
    )


@dataclass(frozen=True)
class Credentials:
    """One key pair of an object store; its text form shows none of it."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def environment(self) -> dict[str, str]:
        """The variables by which a child process gets them."""
        token = {"AWS_SESSION_TOKEN": self.session_token} if self.session_token else {}
        return {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            **token,
        }


_in_use: ContextVar[Credentials | None] = ContextVar("effnet_core.credentials", default=None)


@contextmanager
def using(credentials: Credentials | None) -> Iterator[None]:
    """Use these instead of boto3's chain inside the block and in its ``Threads``; None changes nothing."""
    if credentials is None:
        yield
        return
    token = _in_use.set(credentials)
    try:
        yield
    finally:
        _in_use.reset(token)


def in_use() -> Credentials | None:
    """What the innermost ``using`` handed over, or None where boto3's own chain decides."""
    return _in_use.get()
