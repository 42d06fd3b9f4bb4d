"""Opening an address that somebody gave: http and https only, no private networks, secrets not shown."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from effnet_core.errors import CheckpointError

PRIVATE_VARIABLE = "EFFNET_PRIVATE_ADDRESSES"
"""Set to 1 where files are fetched from a server in a private network, or from this machine."""
TIMEOUT_S = 30
USER_AGENT = "effnet-flows"
SCHEMES = ("http", "https")


def urlsplit_or_none(text: str) -> SplitResult | None:
    """The parts of an address of the web; None where it is none."""
    if not text.lower().startswith(("http://", "https://")):
        return None
    try:
        return urlsplit(text)
    except ValueError as cause:
        raise CheckpointError(f"address {redacted(text)} cannot be read ({cause})") from cause


def redacted(text: str) -> str:
    """``text`` with passwords and signatures in addresses starred out, for messages, logs and files."""
    text = re.sub(r"(?<=://)[^/\s?#]*@", "***@", text)
    return re.sub(r"(https?://[^\s?#]*)[?#][^\s'\")]*", r"\1?***", text, flags=re.IGNORECASE)


def open_address(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """Send a request, follow its redirects and give the answer.

    Raises:
        CheckpointError: it is not an address of the web, or it or a redirect leads where it may not.
        OSError, http.client.HTTPException: as ``urllib.request.urlopen``.
    """
    parts = require_allowed(url, url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(bare, headers={"User-Agent": USER_AGENT, **headers})  # noqa: S310
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        # A redirect to somebody else does not get it.
        request.add_unredirected_header(
            "Authorization", f"Basic {base64.b64encode(login).decode()}"
        )
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _HTTP(),
        _HTTPS(context=ssl.create_default_context()),
        _Redirects(url),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    answer: http.client.HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows what is allowed."""

    def __init__(self, asked: str) -> None:
        self.asked = asked

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The next request."""
        if req.type == "https" and not newurl.lower().startswith("https://"):
            raise CheckpointError(
                f"{redacted(self.asked)} leads from https to {redacted(newurl)}, which is not followed"
            )
        require_allowed(newurl, self.asked)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Checked(http.client.HTTPConnection):
    """A connection that looks at whom it has reached before it says anything."""

    def connect(self) -> None:
        """Connect, unless a name that was public has become private meanwhile."""
        super().connect()
        try:
            require_public_peer(self.host, self.sock.getpeername()[0])
        except CheckpointError:
            self.close()
            raise


class _CheckedTLS(http.client.HTTPSConnection, _Checked):
    """The same under TLS."""


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open by a checked connection."""
        return self.do_open(_Checked, req)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open by a checked connection."""
        return self.do_open(_CheckedTLS, req, context=self._context)  # type: ignore[attr-defined]


def require_allowed(url: str, asked: str) -> SplitResult:
    """The parts of an address.

    Raises:
        CheckpointError: it is not of the web, or its host is in a private network.
    """
    where = (
        redacted(asked) if url == asked else f"{redacted(asked)} leads to {redacted(url)}, which"
    )
    parts = urlsplit_or_none(url)
    try:
        host, _ = (parts.hostname, parts.port) if parts else (None, None)
    except ValueError as cause:
        raise CheckpointError(f"{where} has no valid port") from cause
    if parts is None or not host:
        raise CheckpointError(f"{where} is not an http or https address with a host")
    if _allows_private() or is_proxied(host):
        return parts
    try:
        found = {str(item[4][0]) for item in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return parts  # connecting says what is wrong
    for address in sorted(found):
        if not _is_public(address):
            raise CheckpointError(_private(where, address, host))
    return parts


def require_public_peer(host: str, peer: str) -> None:
    """Refuse a connection to a private network that a public name has led to.

    Raises:
        CheckpointError: it is one, no proxy is between, and nobody has allowed it.
    """
    if not is_proxied(host) and not _allows_private() and not _is_public(peer):
        raise CheckpointError(_private(host, peer, host))


def _private(where: str, address: str, host: str) -> str:
    return (
        f"{where} is at {address} ({host}), which is not a public address; set {PRIVATE_VARIABLE}=1 if "
        "that is where it should be"
    )


def _allows_private() -> bool:
    return os.environ.get(PRIVATE_VARIABLE) == "1"


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return found.is_global and not found.is_multicast


def is_proxied(host: str) -> bool:
    """Whether a proxy of the environment asks for us; then names are its to look up."""
    proxies = urllib.request.getproxies()
    return bool(set(proxies) & set(SCHEMES)) and not urllib.request.proxy_bypass(host)
