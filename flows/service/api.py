"""The few questions that operation asks a Prefect server, over plain HTTP.

Imports nothing of Prefect, whose client takes two seconds and 100 MB to import: commands answer at once,
and the daemon, which lives as long as the service, stays small.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import time
import uuid
from functools import cache
from typing import Any

import httpx

from effnet_core.errors import ConfigError, EffnetError
from flows.service.server import AUTH_VARIABLE

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
BUSY = (429, 502, 503)
"""Answers of a server whose database is busy for the moment."""
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
PAGE = 200
"""Most rows that the server gives at a time."""

JSON = dict[str, Any]


class ApiError(EffnetError):
    """The Prefect server did not answer, or answered with an error."""

    retryable = True


class Api:
    """A Prefect server's REST interface.

    Args:
        url: ends in ``/api``.
        auth: login as ``USER:PASSWORD``; that of the environment, if it has one, by default.
    """

    def __init__(self, url: str, *, auth: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.auth = auth
        self.proof: dict[str, str] = {}

    def get(self, path: str) -> Any:
        """The answer to a GET, as JSON."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: JSON | list[JSON] | None = None) -> Any:
        """The answer to a POST, as JSON."""
        return self._ask("POST", path, {} if body is None else body)

    def patch(self, path: str, body: JSON) -> None:
        """Change something."""
        self._ask("PATCH", path, body)

    def put(self, path: str, body: JSON) -> None:
        """Replace something."""
        self._ask("PUT", path, body)

    def delete(self, path: str) -> None:
        """Remove something."""
        self._ask("DELETE", path, None)

    def healthy(self) -> bool:
        """Whether the server says that it is."""
        try:
            return bool(self._ask("GET", "/health", None, timeout_s=2))
        except EffnetError:
            return False

    def runs(self, *states: str, **filters: Any) -> list[JSON]:
        """Flow runs in some states, newest first, at most 200.

        Args:
            states: types such as ``RUNNING``; all by default.
            filters: further parts of the server's filter, such as ``work_pools``.
        """
        flow_runs = dict(filters.pop("flow_runs", {}))
        if states:
            flow_runs["state"] = {"type": {"any_": list(states)}}
        body = {"flow_runs": flow_runs, **filters}
        found: list[JSON] = self.post(
            "/flow_runs/filter", {**body, "sort": "EXPECTED_START_TIME_DESC", "limit": PAGE}
        )
        return found

    def run(self, flow_run_id: str) -> JSON:
        """One flow run."""
        found: JSON = self.get(f"/flow_runs/{flow_run_id}")
        return found

    def limits(self) -> list[JSON]:
        """The global concurrency limits."""
        found: list[JSON] = self.post("/v2/concurrency_limits/filter", {"limit": PAGE})
        return found

    def set_state(self, flow_run_id: str, kind: str, name: str, message: str, **more: Any) -> None:
        """Move a flow run to a state, whatever it is in now."""
        state = {"type": kind, "name": name, "message": message, **more}
        self.post(f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})

    def _ask(
        self,
        method: str,
        path: str,
        body: JSON | list[JSON] | None,
        *,
        timeout_s: float = 30,
        proven: bool = False,
    ) -> Any:
        headers = {"Content-Type": "application/json", **self.proof}
        if auth := self.auth or os.environ.get(AUTH_VARIABLE):
            headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        content = None if body is None else json.dumps(body)
        try:
            answer = _answer(method, f"{self.url}{path}", content, headers, timeout_s)
        except (httpx.HTTPError, httpx.InvalidURL) as cause:
            raise ApiError(f"the Prefect server at {self.url} does not answer ({cause})") from None
        if answer.is_success:
            return self._json(answer)
        refusal = _refusal(answer, self.url)
        if isinstance(refusal, _ProofWanted) and not proven:  # at first, and once an hour
            self._prove()
            return self._ask(method, path, body, timeout_s=timeout_s, proven=True)
        raise refusal

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise ApiError(
                f"{self.url} does not answer as a Prefect server does; is the address right (it ends in "
                "/api)?"
            ) from None

    def _prove(self) -> None:
        """Fetch what a server with protection against forged requests wants with every change."""
        client = str(uuid.uuid4())
        token = self._ask("GET", f"/csrf-token?client={client}", None)["token"]
        self.proof = {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token}


class _ProofWanted(ConfigError):
    """The server wants a token that shows that no other web page sends the request."""


@cache
def _tls() -> ssl.SSLContext:
    """What secure connections trust, read once: that takes longer than a request."""
    return httpx.create_ssl_context()


def _answer(
    method: str, url: str, content: str | None, headers: dict[str, str], timeout_s: float
) -> httpx.Response:
    """A server's answer; one that says it is busy is asked again, as Prefect's client does."""
    for wait_s in (*WAITS_S, None):
        answer = httpx.request(
            method,
            url,
            content=content,
            headers=headers,
            timeout=timeout_s,
            follow_redirects=True,
            verify=_tls(),
        )
        if answer.status_code not in BUSY or wait_s is None:
            return answer
        time.sleep(wait_s)
    raise AssertionError("unreachable")


def _refusal(answer: httpx.Response, url: str) -> EffnetError:
    """The server's own words for a refusal."""
    try:
        detail = answer.json().get("detail", "")
    except (ValueError, AttributeError):
        detail = ""
    if answer.status_code == 403 and "CSRF" in f"{detail}":
        return _ProofWanted(f"the Prefect server at {url} refused: {detail}")
    if answer.status_code in (401, 403):
        return ConfigError(
            f"the Prefect server at {url} wants a login; set {AUTH_VARIABLE}=USER:PASSWORD"
        )
    if answer.status_code >= 500:
        return ApiError(
            f"the Prefect server at {url} failed (HTTP {answer.status_code}); its log says why, which is "
            "often a full disk"
        )
    text = f"{detail}" or f"HTTP {answer.status_code}"
    kind = ConfigError if answer.status_code in (400, 404, 409, 422) else ApiError
    return kind(f"the Prefect server refused: {text}")
