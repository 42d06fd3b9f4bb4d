"""A labelling that has drifted tells a real server, once, and the automation starts the nightly pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effnet_core.config.load import load_config
from effnet_core.data.manifest import open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.quality.drift import write_reference
from effnet_core.system.files import read_json
from effnet_core.weights.checkpoint import open_checkpoint
from tasks.infer import DRIFT_EVENT
from tests.flows.service import TestedService, wait_for
from tests.support.images import class_folders, draw, encode
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.prefect

NIGHTLY = "nightly-pipeline"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of drawn weights, with what held-out pictures look like to it."""
    folder = tmp_path_factory.mktemp("model")
    class_folders(folder / "source", {"cat": 60, "dog": 60, "owl": 60})
    stage_dataset(folder / "source", folder / "data", val_share=0.5)
    data = open_dataset(folder / "data")
    path = make_checkpoint(folder / "model.ckpt", class_names=data.class_names, image_size=32)
    checkpoint, split = open_checkpoint(path), data.split("val")
    assert write_reference(folder, checkpoint, split, config=load_config(None, []))
    return path


def pictures(folder: Path, *, inverted: bool, first: int) -> Path:
    """Thirty pictures of all classes, like those of the model or not."""
    folder.mkdir(exist_ok=True)
    for i in range(first, first + 30):
        image = draw(seed=70_000 + i, label=i % 3)
        if inverted:
            image = Image.fromarray(255 - np.asarray(image))
        (folder / f"{i:03d}.png").write_bytes(encode(image))
    return folder


@pytest.fixture
def automation(service: TestedService) -> Iterator[None]:
    done = service.effnet("deploy", "--automations", "drift")
    assert done.returncode == 0, done.stderr
    yield
    for item in service.api.post("/automations/filter"):
        if item["name"] == "train anew after drift":
            service.api.delete(f"/automations/{item['id']}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_drift_starts_the_nightly_pipeline_once(
    service: TestedService, automation: None, model: Path, tmp_path: Path
) -> None:
    inbox, output = tmp_path / "inbox", tmp_path / "labels"

    def label() -> dict[str, Any]:
        parameters = {"folder": str(inbox), "weights": str(model), "output": str(output)}
        run = service.start_run("batch-infer/batch-infer", {**parameters, "only_new": True})
        assert service.wait_until_final(run) == "Completed", service.log(run)
        found: dict[str, Any] = read_json(output / "summary.json")["drift"]
        return found

    def events() -> list[dict[str, Any]]:
        body = {"filter": {"event": {"name": [DRIFT_EVENT]}}, "limit": 50}
        found = service.api.post("/events/filter", body)["events"]
        return [one for one in found if one["payload"]["output"] == str(output)]

    def nights() -> list[dict[str, Any]]:
        body = {"deployments": {"name": {"any_": [NIGHTLY]}}, "limit": 50}
        found = service.api.post("/flow_runs/filter", body)
        return [run for run in found if (run.get("created_by") or {}).get("type") == "AUTOMATION"]

    pictures(inbox, inverted=False, first=0)
    assert not label()["drifted"]
    pictures(inbox, inverted=True, first=30)
    found = label()
    assert found["drifted"] and found["images"] == 30
    [event] = wait_for("the event", events, seconds=60)
    assert event["payload"]["distance"] == found["distance"] > event["payload"]["threshold"]
    assert event["resource"]["prefect.resource.id"].startswith("effnet.model.")
    [night] = wait_for("the nightly pipeline", nights, seconds=60)
    assert night["name"] and not night["auto_scheduled"]

    assert label() == found  # nothing is new
    pictures(inbox, inverted=True, first=60)
    assert label()["drifted"]
    wait_for("the second event", lambda: len(events()) == 2, seconds=60)
    service.wait_until_final(night["id"])
    assert len(events()) == 2  # a run that labelled nothing tells nobody
    assert [run["id"] for run in nights()] == [night["id"]]  # at most once in six hours
