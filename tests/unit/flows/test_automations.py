"""Automations name deployments; an event says that a labelling has drifted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore

from effnet_core.errors import ConfigError
from flows.service.automations import FOLDER, bring_automations, require_usable
from tasks import infer

ID = "7b6f1c1e-6c39-4c2b-9a0e-0d3f6a3f5b11"


class Server:
    """Knows one deployment."""

    def __init__(self, *, known: bool = True) -> None:
        self.known, self.made = known, []

    def post(self, path: str, body: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        if path == "/deployments/filter":
            assert body is not None
            assert body["flows"]["name"]["any_"] == ["pipeline"]
            assert body["deployments"]["name"]["any_"] == ["nightly-pipeline"]
            return [{"id": ID}] if self.known else []
        if path == "/automations/":
            self.made.append(body)
        return []


def test_drift_starts_the_nightly_pipeline() -> None:
    server = Server()
    assert bring_automations(server, FOLDER / "drift.yaml") == ["train anew after drift"]
    [made] = server.made
    automation = AutomationCore.model_validate(made)  # as the server would
    assert str(automation.actions[0].deployment_id) == ID
    assert automation.trigger.expect == {infer.DRIFT_EVENT}
    with pytest.raises(
        ConfigError, match="has no deployment 'pipeline/nightly-pipeline'; bring it"
    ):
        bring_automations(Server(known=False), FOLDER / "drift.yaml")


def test_a_file_is_refused_before_anything_is_deployed_for_it(tmp_path: Path) -> None:
    """Its deployments may be among those that are still to come, its blocks may not."""
    server = Server(known=False)
    require_usable(server, FOLDER / "drift.yaml")
    with pytest.raises(ConfigError, match="has no block 'failures' of type 'slack-webhook'; make"):
        require_usable(server, FOLDER / "slack.yaml")
    (tmp_path / "note.yaml").write_text("nothing: []")
    with pytest.raises(ConfigError, match="is not a file of automations"):
        require_usable(server, tmp_path / "note.yaml")
    assert server.made == []


def test_the_deployment_is_one_of_ours() -> None:
    deployments = yaml.safe_load((FOLDER.parent / "prefect.yaml").read_text())["deployments"]
    assert "nightly-pipeline" in [item["name"] for item in deployments]


def test_an_event_tells_of_drift_once_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(infer, "emit_event", lambda name, **rest: told.append((name, rest)))
    found = {"distance": 9.0, "threshold": 1.0, "images": 50, "far_share": 0.5, "drifted": False}
    out = str(tmp_path)
    infer.tell_of_drift({}, out)
    infer.tell_of_drift({"drift": found}, out)
    assert told == []
    for _ in range(2):  # a run that is repeated, or that was killed after it
        infer.tell_of_drift({"drift": {**found, "drifted": True}, "model_sha256": "ab" * 32}, out)
    [(name, rest)] = told
    assert name == "effnet.drift"
    assert rest["resource"]["prefect.resource.id"] == "effnet.model.abababababab"
    assert rest["payload"]["distance"] == 9.0 and rest["payload"]["output"] == out
