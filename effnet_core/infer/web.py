"""Pictures at addresses of the web: limits of size and time, further tries, no private networks."""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from effnet_core.config.schema import InferConfig
from effnet_core.data.images import ImageProblem
from effnet_core.errors import CheckpointError
from effnet_core.text import human_bytes
from effnet_core.weights.web import (
    USER_AGENT,
    is_proxied,
    redacted,
    require_allowed,
    require_public_peer,
)

if TYPE_CHECKING:
    import httpx

WEB_SCHEMES = ("http://", "https://")
READERS = 16
REDIRECTS = 5
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which a server is asked again."""
MOVED = (301, 302, 303, 307, 308)


def is_web(text: str) -> bool:
    """Whether a text is meant as an address of the web."""
    return text.lower().startswith(WEB_SCHEMES)


class _Again(Exception):
    """A failure that the next try may not meet."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class WebReader:
    """Pictures below an address."""

    readers = READERS

    def __init__(self, root: str, infer: InferConfig) -> None:
        self.root = root
        self.timeout_s, self.tries = infer.http_timeout_s, infer.http_tries
        self.most_bytes = int(infer.http_max_mb * 1e6)
        self._lock = threading.Lock()
        self._clients: dict[bool, httpx.Client] = {}

    def __del__(self) -> None:
        for client in getattr(self, "_clients", {}).values():
            client.close()

    def read(self, path: str) -> bytes:
        """One picture.

        Raises:
            ImageProblem: it cannot be fetched.
        """
        reason = ""
        for attempt in range(self.tries):
            try:
                return self._fetch(self.root + path)
            except CheckpointError as refused:  # the rules of addresses are those of weights
                raise ImageProblem(str(refused)) from refused
            except _Again as again:
                reason = str(again)
                if attempt + 1 < self.tries:
                    wait_s = FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1)  # noqa: S311
                    time.sleep(min(LONGEST_WAIT_S, max(wait_s, again.wait_s)))
        raise ImageProblem(f"{reason} (tried {self.tries} times)")

    def _fetch(self, url: str) -> bytes:
        import httpcore
        import httpx

        until = time.monotonic() + self.timeout_s
        asked = url
        try:
            for _ in range(REDIRECTS):
                parts = require_allowed(url, asked)
                client = self._client(proxied=is_proxied(parts.hostname or ""))
                with client.stream("GET", url) as answer:
                    if answer.status_code not in MOVED:
                        return self._content(answer, until)
                    target = urljoin(url, answer.headers.get("location", ""))
                if url.startswith("https://") and not target.startswith("https://"):
                    raise ImageProblem(f"leads from https to {redacted(target)}")
                url = target
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as cause:
            raise ImageProblem(f"not an address that can be fetched ({cause})") from cause
        except (httpx.TimeoutException, httpcore.TimeoutException) as cause:
            raise _Again(f"no answer within {self.timeout_s:g} s") from cause
        except (
            httpx.HTTPError,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            OSError,
        ) as cause:
            raise _Again(f"cannot be fetched ({_in_words(cause)})") from cause
        raise ImageProblem(f"leads on more than {REDIRECTS} times")

    def _content(self, answer: httpx.Response, until: float) -> bytes:
        status = answer.status_code
        if status in BUSY:
            raise _Again(f"the server answers {status}", _retry_after(answer))
        if status != 200:
            raise ImageProblem(f"the server answers {status}")
        said = answer.headers.get("content-length", "")
        size = int(said) if said.isdigit() else None
        self._require_size(size or 0)
        chunks, arrived = [], 0
        for chunk in answer.iter_raw():
            arrived += len(chunk)
            self._require_size(arrived)
            if time.monotonic() > until:
                raise _Again(f"not all there within {self.timeout_s:g} s")
            chunks.append(chunk)
        if size is not None and arrived != size:
            raise _Again(f"came cut: {arrived:,} of {size:,} bytes")
        return b"".join(chunks)

    def _require_size(self, size: int) -> None:
        if size > self.most_bytes:
            raise ImageProblem(
                f"larger than {human_bytes(self.most_bytes)} (infer.http_max_mb); raise it if that is right"
            )

    def _client(self, *, proxied: bool) -> httpx.Client:
        """One for all threads; a proxy of the environment is asked instead of the server itself."""
        import httpx

        with self._lock:
            if proxied not in self._clients:
                self._clients[proxied] = httpx.Client(
                    transport=None if proxied else _checked_transport(),
                    timeout=self.timeout_s,
                    headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                )
            return self._clients[proxied]


def _in_words(cause: Exception) -> str:
    return redacted(" ".join(str(cause).split()))[:200] or type(cause).__name__


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that a server asks to wait."""
    said = answer.headers.get("retry-after", "")
    return float(said) if said.isdigit() else 0.0


def _checked_transport() -> httpx.BaseTransport:
    """Connections that look at whom they have reached before they say anything."""
    import httpcore
    import httpx

    class Backend(httpcore.SyncBackend):
        def connect_tcp(self, host: str, *args: Any, **options: Any) -> httpcore.NetworkStream:
            stream = super().connect_tcp(host, *args, **options)
            try:
                require_public_peer(host, str(stream.get_extra_info("server_addr")[0]))
            except CheckpointError:
                stream.close()
                raise
            return stream

    class Body(httpx.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            yield from self.stream

        def close(self) -> None:
            self.stream.close()

    class Transport(httpx.BaseTransport):
        def __init__(self) -> None:
            self.pool = httpcore.ConnectionPool(
                ssl.create_default_context(),
                max_connections=None,
                max_keepalive_connections=READERS,
                network_backend=Backend(),
            )

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            url = request.url
            asked = httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
            answer = self.pool.handle_request(asked)
            return httpx.Response(answer.status, headers=answer.headers, stream=Body(answer.stream))

        def close(self) -> None:
            self.pool.close()

    return Transport()
