"""Where a bucket's server is and with which key: from the environment alone where that says all.

Else boto3 is asked. Loading it and its description of S3 takes half a second, which is as long as a
thousand small files. The rules here are boto3's own, for the case that needs no files: the key pair, and
a server that is not AWS, are in variables or were given. A test compares both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from effnet_core.storage.client import (
    ENDPOINTS,
    FALLBACK_REGION,
    S3Access,
    is_aws,
    s3_client,
)
from effnet_core.storage.credentials import Credentials, in_use

ONLY_BOTO3_KNOWS = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CREDENTIAL_EXPIRATION"),
    *("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)
"""Variables that change where or how the server is reached."""

TOKENS = ("AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
CONFIG_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)


@dataclass(frozen=True)
class Reach:
    """What a request needs to know besides bucket and key."""

    endpoint_url: str
    region: str
    credentials: Callable[[], Credentials] = field(repr=False)
    """The key pair at this moment: that of a role changes."""


def reach(access: S3Access) -> Reach | None:
    """How to reach the server, or None where there are no credentials.

    Raises:
        ConfigError: the endpoint is no address, or the profile is unknown.
        StoreError: the credentials are incomplete.
    """
    return reach_by_environment(access) or _reach_by_boto3(access)


def reach_by_environment(access: S3Access) -> Reach | None:
    """What settings and variables say, or None where boto3 has to be asked."""
    if access.profile is not None or any(os.environ.get(name) for name in ONLY_BOTO3_KNOWS):
        return None
    credentials = in_use() or _credentials_of_environment()
    endpoint = access.endpoint_url or next(filter(None, map(os.environ.get, ENDPOINTS)), None)
    region = access.region or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not any(map(_exists, CONFIG_FILES)):
        region = FALLBACK_REGION
    if credentials is None or not region or endpoint is None or not _is_plain(endpoint):
        return None
    return Reach(endpoint, region, lambda: credentials)


def _credentials_of_environment() -> Credentials | None:
    key_id, secret = map(os.environ.get, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    token = next(filter(None, map(os.environ.get, TOKENS)), None)
    return Credentials(key_id, secret, token) if key_id and secret else None


def _exists(file: tuple[str, str]) -> bool:
    variable, usual = file
    return Path(os.path.expanduser(os.environ.get(variable) or usual)).exists()  # noqa: PTH111 - no raise


def _is_plain(endpoint: str) -> bool:
    """Whether an address is a server other than AWS and nothing else."""
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(host)
        and parts.username is None
        and parts.path in ("", "/")
        and not (parts.query or parts.fragment)
        and not is_aws(endpoint)
    )


def _reach_by_boto3(access: S3Access) -> Reach | None:
    client = s3_client(access)
    chain = client._get_credentials()  # type: ignore[attr-defined]
    if chain is None:
        return None

    def credentials() -> Credentials:
        frozen = chain.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    return Reach(client.meta.endpoint_url, client.meta.region_name, credentials)
