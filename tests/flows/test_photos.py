"""A deployment's default recipe on plain pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.weights.checkpoint import MODEL_NAME, open_checkpoint
from flows.train import train_flow
from tests.support.images import class_folders
from tests.support.weights import make_checkpoint

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]


def test_a_folder_of_photographs_becomes_a_model(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"cat": 6, "dog": 6})
    weights = make_checkpoint(tmp_path / "weights.ckpt", variant="efficientnet_tiny")
    run_dir = tmp_path / "runs" / "first"
    result = train_flow(str(photos), str(run_dir), weights=str(weights), quality="fast")
    assert result.probe_top1 == result.evaluation.top1
    assert open_checkpoint(run_dir / MODEL_NAME).sidecar.class_names == ("cat", "dog")
    settled = read_config(run_dir / CONFIG_NAME)
    assert settled.model.variant == "efficientnet_tiny"
    assert settled.train.probe == "only"
    again = train_flow(str(photos), str(run_dir), weights=str(weights), quality="fast")
    assert again == result
