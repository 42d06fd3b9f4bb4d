"""What a pipeline leaves: a summary, a report, and a card that says how honest the probabilities are."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core.model_store.publication import PublishedVersion
from effnet_core.reports.pipeline import write_pipeline_report
from tests.support.images import draw, encode
from tests.support.tiny import tiny_config
from tests.unit.reports.test_compare import made
from tests.unit.reports.test_evaluation import evaluated
from tests.unit.reports.test_review import labelled


@pytest.mark.costly
def test_the_report_says_how_honest_the_probabilities_are(tmp_path: Path, data_dir: Path) -> None:
    made(tmp_path / "out" / "train")
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.png").write_bytes(encode(draw(seed=i)))
    labelled(tmp_path / "in", tmp_path / "out" / "predictions")
    folder = evaluated(tmp_path / "e", data_dir)
    published = PublishedVersion("pets", "v1", "store/pets/versions/v1", True, False, "", 0.5)
    summary, card = write_pipeline_report(
        tiny_config(),
        tmp_path / "out",
        data_dir=data_dir,
        evaluation=folder / "result.json",
        published=published,
        labelled_by="v0",
        seconds={"train": 1.0},
        flow_run_id="",
    )
    page = Path(summary["report"]).read_text()
    assert "calibration error" in page and "before calibration" in page
    assert "calibration error" in card
    assert summary["labelled_by"] == "v0" and "labelled by" in page
    assert summary["model_version"] == "v1" and summary["labelled"] == 3
