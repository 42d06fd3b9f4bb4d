"""Every deployment of ``prefect.yaml`` runs with only the parameters that it requires."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.service import ROOT, TestedService, wait_for
from tests.support.images import class_folders, draw, encode

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.mindspore]

FILE = ROOT / "deployments" / "prefect.yaml"
NAMES = [item["name"] for item in yaml.safe_load(FILE.read_text())["deployments"]]
WAIT_S = 1500.0


class Deployed:
    """The service, in a folder with the names that scheduled deployments expect."""

    def __init__(self, folder: Path) -> None:
        self.service = TestedService(folder)
        for name in ("images", "photographs"):  # 12 pictures in 2 classes
            class_folders(folder / name, {"cat": 6, "dog": 6}, width=64, height=48)
        for name in ("inbox", "photos"):
            (folder / name).mkdir()
            for index in range(3):
                picture = encode(draw(seed=index, label=index))
                (folder / name / f"{index}.png").write_bytes(picture)

    def required(self, deployment: dict[str, Any]) -> dict[str, Any]:
        """A value for each parameter that neither the flow nor the deployment gives one."""
        values: dict[str, Callable[[], str]] = {
            "source": lambda: "photographs",
            "out": lambda: "staged",
            "folder": lambda: "photos",
            "weights": self.trained,
            "run_dir": self.trained,
            "data": lambda: "staged" if "evaluate" in deployment["name"] else "photographs",
        }
        schema = deployment["parameter_openapi_schema"]
        missing = set(schema.get("required", ())) - set(deployment["parameters"])
        return {name: values[name]() for name in sorted(missing)}

    def trained(self) -> str:
        """The folder of the run that ``train-b0`` has left."""
        (found,) = (self.service.folder / "runs" / "train").glob("train-b0-*")
        return str(found)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path_factory.mktemp("everything"))
    try:
        deployed.service.up()
        yield deployed
    finally:
        deployed.service.effnet("down")


@pytest.mark.timeout(WAIT_S + 60)
@pytest.mark.parametrize(
    "name", sorted(NAMES, key=["stage", "train-b0"].__contains__, reverse=True)
)
def test_with_only_what_is_required(name: str, deployed: Deployed) -> None:
    service = deployed.service
    (found,) = (item for item in service.api.post("/deployments/filter") if item["name"] == name)
    path = f"/deployments/{found['id']}/create_flow_run"
    body = {"parameters": deployed.required(found), "state": {"type": "SCHEDULED"}}
    run = str(service.api.post(path, body)["id"])
    wait_for(f"the end of {name}", lambda: _ended(service, run), seconds=WAIT_S)
    assert service.state(run) == "Completed", service.log(run)
    for folder in (service.folder / "runs" / "train").glob(f"{name}-*"):
        if name != "train-b0":
            shutil.rmtree(folder)


def _ended(service: TestedService, run: str) -> bool:
    return service.api.run(run)["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
