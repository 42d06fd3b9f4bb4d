"""``deployments/prefect.yaml``: every entrypoint exists and takes the parameters it is given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow, load_flow_from_entrypoint

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(FILE.read_text())["deployments"]


def load(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Flow[..., Any]:
    monkeypatch.chdir(ROOT)
    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


def test_every_flow_has_a_deployment() -> None:
    deployed = {item["entrypoint"].partition(":")[0] for item in DEPLOYMENTS}
    assert deployed == {
        f"flows/{name}.py"
        for name in ("stage", "train", "evaluate", "publish", "batch_infer", "pipeline")
    }


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda item: str(item["name"]))
def test_entrypoint_and_parameters(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = load(deployment, monkeypatch)
    parameters = inspect.signature(flow.fn).parameters
    given = deployment.get("parameters", {})
    assert set(given) <= set(parameters)
    required = {
        name: "x" for name, item in parameters.items() if item.default is inspect.Parameter.empty
    }
    flow.validate_parameters({**required, **given})
    assert deployment["description"]
    for schedule in deployment.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
