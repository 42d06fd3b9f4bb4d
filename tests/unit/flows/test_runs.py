"""Watching a run whose server goes away for a while."""

from __future__ import annotations

from typing import Any

import pytest

from flows.service import runs
from flows.service.api import Api, ApiError


class FakeServer(Api):
    """Answers with the given states, one a question; ``None`` is no answer."""

    def __init__(self, *states: str | None) -> None:
        super().__init__("http://127.0.0.1:9/api")
        self.states = list(states)

    def run(self, flow_run_id: str) -> dict[str, Any]:
        state = self.states.pop(0)
        if state is None:
            raise ApiError("the Prefect server does not answer")
        timestamp = {"timestamp": "2026-01-01T00:00:00Z", "message": "why"}
        return {
            "name": "a-run",
            "state_name": state,
            "state_type": state.upper(),
            "state": timestamp,
        }

    def post(self, path: str, body: Any = None) -> Any:
        return []


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "POLL_S", 0.0)


def test_a_server_that_is_away_for_a_while_does_not_end_the_watch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs._watch(FakeServer("Running", None, None, "Running", "Completed"), "id")
    output = capsys.readouterr().out
    assert output.count("the run continues meanwhile") == 2
    assert output.count("Running a-run") == 1
    assert "Completed a-run" in output


def test_a_server_that_stays_away_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "AWAY_S", -1.0)
    with pytest.raises(ApiError, match="does not answer"):
        runs._watch(FakeServer("Running", None), "id")


def test_a_run_that_fails_is_an_error() -> None:
    with pytest.raises(runs.RunFailed, match="a-run ended as Failed: why"):
        runs._watch(FakeServer("Running", "Failed"), "id")
