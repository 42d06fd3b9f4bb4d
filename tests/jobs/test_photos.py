"""From a folder of class folders to a model: staged, probed and tuned by one call."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.errors import OutputExists
from effnet_core.events import Event
from effnet_core.files import read_jsonl
from effnet_core.jobs.job import CHECKPOINTS_NAME, METRICS_NAME, PROBE_NAME, RESULT_NAME
from effnet_core.weights.checkpoint import BEST_NAME, MODEL_NAME, open_checkpoint
from tests.support.images import class_folders
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore

FEW = "data.image_size=32", "train.epochs=2", "evaluate.per_device_batch_size=5"


def test_photographs_are_staged_probed_and_tuned_and_never_end_worse_than_the_probe(
    tmp_path: Path, events: list[Event]
) -> None:
    photos = class_folders(tmp_path / "photos", {"cat": 14, "dog": 12, "owl": 12})
    weights = make_checkpoint(tmp_path / "weights.ckpt", variant="efficientnet_tiny")
    config, run_dir = (
        load_config("auto", [f"model.weights={weights}", *FEW]),
        tmp_path / "runs" / "a",
    )

    result = api.train(config, photos, run_dir)

    assert result.epochs == 2
    assert result.probe_top1 is not None
    assert result.evaluation.top1 >= result.probe_top1
    probe = api.training_result(run_dir).probe_top1
    assert probe == open_checkpoint(run_dir / PROBE_NAME / MODEL_NAME).sidecar.metrics["top1"]
    assert open_checkpoint(run_dir / MODEL_NAME).sidecar.class_names == ("cat", "dog", "owl")
    assert (run_dir / CHECKPOINTS_NAME / BEST_NAME).exists()
    assert [
        row["epoch"] for row in read_jsonl(run_dir / METRICS_NAME) if row["kind"] == "eval"
    ] == [1, 2]

    said = [event.message for event in events if event.metrics.get("kind") == "decision"]
    assert any(line.startswith("model.variant") and "efficientnet_tiny" in line for line in said)
    assert [e.metrics["top1"] for e in events if e.metrics.get("kind") == "probe"] == [probe]
    assert any("compiling the graph" in event.message for event in events)

    assert api.train(config, photos, run_dir) == result  # finished already
    with pytest.raises(OutputExists, match=r"differs in train\.seed"):
        api.train(
            load_config("auto", [f"model.weights={weights}", *FEW, "train.seed=5"]), photos, run_dir
        )

    # Cut between its training and its answer: probe and steps are not done again.
    (run_dir / RESULT_NAME).unlink()
    before = (run_dir / PROBE_NAME / MODEL_NAME).stat().st_mtime_ns
    resumed = api.train(config, photos, run_dir)
    assert resumed.resumed_from_step == result.steps
    assert resumed.evaluation.top1 == result.evaluation.top1
    assert (run_dir / PROBE_NAME / MODEL_NAME).stat().st_mtime_ns == before
