"""The guard in front of Prefect's server: own host names and own pages only."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flows.service import guarded
from flows.service.guarded import HOSTS_VARIABLE, OwnOrigin, allowed_hosts

OWN = "127.0.0.1:4200"


def app() -> TrustedHostMiddleware:
    inner = Starlette(
        routes=[Route("/api/x", lambda _: PlainTextResponse("done"), methods=["GET", "POST"])]
    )
    return TrustedHostMiddleware(
        OwnOrigin(inner), allowed_hosts=allowed_hosts(), www_redirect=False
    )


def ask(method: str = "POST", path: str = "/api/x", **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers={"host": OWN, **headers})

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": f"http://{OWN}"}, 200),
        ({"host": "localhost:4200", "origin": "http://localhost:4200"}, 200),
        ({"host": "LOCALHOST:4200", "origin": "http://LocalHost:4200"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:4201"}, 403),
        ({"origin": "http://localhost:4200"}, 403),
        ({"origin": f"http://{OWN}.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 400),
        ({"host": "evil.example:4200"}, 400),
        ({"host": "127.0.0.1.evil.example"}, 400),
        ({"host": "team.example"}, 400),
    ],
)
def test_who_may_ask(headers: dict[str, str], status: int) -> None:
    assert ask(**headers).status_code == status


def test_further_names_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS_VARIABLE, " Team.example , server")
    assert ask(host="team.example", origin="https://team.example").status_code == 200
    assert ask(host="server:4200").status_code == 200
    assert ask(host="evil.example").status_code == 400


def test_browsers_are_told_to_load_nothing_from_elsewhere() -> None:
    headers = ask("GET").headers
    for words in ("img-src 'self' data:", "connect-src 'self'", "frame-ancestors 'self'"):
        assert words in headers["content-security-policy"]
    assert "*" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "SAMEORIGIN"


def test_the_login_page_runs_its_own_script_only() -> None:
    answer = ask("GET", guarded.LOGIN_PATH)
    assert f"<script>{guarded.SCRIPT}</script>" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy == f"default-src 'none'; script-src 'sha256-{guarded.SCRIPT_DIGEST}'"
    assert ask("GET", guarded.LOGIN_PATH, origin="http://evil.example").status_code == 403


@pytest.mark.parametrize(
    ("origin", "reached"), [(None, True), (f"http://{OWN}", True), ("http://evil.example", False)]
)
def test_sockets_of_other_pages_are_closed(origin: str | None, *, reached: bool) -> None:
    seen: list[str] = []
    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", OWN.encode()), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": "websocket", "path": "/api/events/in", "headers": headers}
    asyncio.run(OwnOrigin(inner)(scope, None, send))  # type: ignore[arg-type]
    assert (seen == ["websocket"]) is reached
    assert ([item["type"] for item in sent] == ["websocket.close"]) is not reached


SERVE = (
    "import os, sys, types\n"
    "made = types.SimpleNamespace(create_app=lambda final: open(sys.argv[1], 'w'))\n"
    "sys.modules['prefect.server.api.server'] = made\n"
    "import uvicorn; from flows.service import guarded\n"
    "uvicorn.run = lambda *_, **__: open(sys.argv[2], 'w')\n"
    "os.umask(0o022); guarded.serve('127.0.0.1', 1)\n"
)


@pytest.mark.costly
def test_what_the_server_writes_is_its_users_own(tmp_path: Path) -> None:
    pages, database = tmp_path / "pages", tmp_path / "prefect.db"
    subprocess.run([sys.executable, "-c", SERVE, str(pages), str(database)], check=True)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (pages, database)]
    assert modes == [0o644, 0o600]
