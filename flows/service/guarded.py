"""Prefect's server behind a guard: for this machine's own pages and programs, and for nobody else.

A web page of any origin may send requests to a loopback port, and by a name of its own that points there
(DNS rebinding) it may read the answers as well. Prefect checks neither. The guard refuses requests whose
``Host`` is not one of the server's names and those that another origin's page sends, websockets included,
and it tells browsers not to load foreign pictures, since texts on the dashboard come from file names.

``python -m flows.service.guarded`` takes the place of ``prefect server start``; all settings are Prefect's.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp

from effnet_core.jobs.environment import importing
from flows.service.server import LOGIN_PATH, LOOPBACK

HOSTS_VARIABLE = "EFFNET_ALLOWED_HOSTS"
"""Further names of the server, with commas between them, such as that of a proxy in front."""
HOSTS = (LOOPBACK, "localhost")

# The login comes behind the "#", which browsers keep to themselves, and goes where Prefect's dashboard
# looks for it, so the dashboard's own form for it is not needed.
SCRIPT = (
    "const login = decodeURIComponent(location.hash.slice(1));"
    "if (login) localStorage.setItem('prefect-password', btoa(login));"
    "location.replace('/');"
)
LOGIN_PAGE = f"<!doctype html><title>Log in</title><script>{SCRIPT}</script>"
SCRIPT_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

# Logos of Prefect's blocks are the only pictures from elsewhere.
LOGOS = "https://cdn.sanity.io/images/3ugk85nk/ https://raw.githubusercontent.com/PrefectHQ/"
POLICY = f"img-src 'self' data: blob: {LOGOS}; connect-src 'self'; frame-ancestors 'self'"
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class OwnOrigin:
    """Refuses what pages of other origins send, and has a page that takes the login."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of the ASGI protocol."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif _is_foreign(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                text = "this server takes requests from its own pages only"
                await PlainTextResponse(text, status_code=403)(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == LOGIN_PATH:
            policy = f"default-src 'none'; script-src 'sha256-{SCRIPT_DIGEST}'"
            headers = {**HEADERS, "content-security-policy": policy, "cache-control": "no-store"}
            await HTMLResponse(LOGIN_PAGE, headers=headers)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send))


def _is_foreign(scope: Scope) -> bool:
    """Whether a browser says that a page of another origin sends the request."""
    named = {"origin": "", "host": ""}
    for name, value in scope["headers"]:
        if (key := name.decode("latin-1").lower()) in named:
            named[key] = value.decode("latin-1").lower()
    origin = named["origin"]
    return bool(origin) and origin.partition("://")[2] != named["host"]


def _with_headers(send: Send) -> Send:
    """A ``send`` that adds our headers to answers."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *ours]
        await send(message)

    return sending


def allowed_hosts() -> list[str]:
    """Names that requests may call the server by."""
    further = os.environ.get(HOSTS_VARIABLE, "").split(",")
    return [*HOSTS, *(name.strip().lower() for name in further if name.strip())]


def serve(host: str, port: int) -> None:
    """Run the server until SIGTERM, as ``prefect server start`` does.

    Args:
        host: address to listen on.
        port: to listen on.
    """
    with importing():
        import uvicorn
        from prefect.server.api.server import create_app
        from prefect.settings import get_current_settings

    settings = get_current_settings().server
    app = OwnOrigin(create_app(final=True))
    os.umask(0o077)  # only now: the dashboard's files, which create_app unpacks, are for everybody
    uvicorn.run(
        TrustedHostMiddleware(app, allowed_hosts=allowed_hosts(), www_redirect=False),
        host=host,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


def main() -> None:
    """Command line of the server."""
    parser = argparse.ArgumentParser(description="Prefect's server behind a guard.")
    parser.add_argument("--host", default=HOSTS[0])
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    serve(options.host, options.port)


if __name__ == "__main__":
    main()
