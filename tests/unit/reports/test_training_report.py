"""The page of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from effnet_core.config.load import write_config
from effnet_core.jobs.job import METRICS_NAME
from effnet_core.reports.training import write_training_report
from effnet_core.system.files import append_jsonl
from tests.support.tiny import tiny_config
from tests.unit.cli.test_training import RESULT


@pytest.mark.costly
def test_a_page_of_a_run_and_of_a_probe_alone(tmp_path: Path) -> None:
    write_config(tiny_config(), tmp_path)
    probed = write_training_report(tmp_path, replace(RESULT, steps=0), data="photos").read_text()
    assert "This run recorded no training." in probed
    assert "efficientnet_tiny on photos" in probed
    assert "50.00%" in probed
    for step in (1, 2):
        row = {"kind": "train", "epoch": 1, "step": step, "loss": 2.0, "loss_mean": 2.0, "lr": 0.1}
        append_jsonl(tmp_path / METRICS_NAME, row)
    page = write_training_report(tmp_path, RESULT, data="<photos>").read_text()
    assert "Training loss: 2.000 at step 1" in page
    assert "Confusion matrix of 3 classes: 8 of 12 images lie on the diagonal." in page
    assert "&lt;photos&gt;" in page
