"""An evaluation by two ranks, through MindSpore's own launcher; their training: test_exact_resume.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.data.manifest import open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.results import TrainResult
from tests.support.images import class_folders
from tests.support.tiny import tiny_config

pytestmark = pytest.mark.mindspore

Run = tuple[Path, TrainResult]


@pytest.mark.parametrize("images", [pytest.param(7, marks=pytest.mark.slow), 13])
def test_evaluation_does_not_depend_on_the_number_of_processes(
    images: int, one_rank: Run, tmp_path: Path
) -> None:
    """Neither 7 nor 13 divides by processes times batch (2 x 5); test_collective.py does it with 7 too."""
    source = tmp_path / "source"
    class_folders(source / "train", {"cat": 2, "dog": 2, "owl": 2})
    class_folders(source / "val", {"cat": images - 4, "dog": 2, "owl": 2}, seed=7)
    data = tmp_path / "data"
    stage_dataset(source, data)
    assert open_dataset(data).counts["val"] == images
    one = api.evaluate(one_rank[0], data, config=tiny_config())
    two = api.evaluate(one_rank[0], data, config=tiny_config("runtime.world_size=2"))
    assert one.seen == two.seen == images
    assert (one.correct1, one.correct5) == (two.correct1, two.correct5)
    assert one.confusion == two.confusion
    assert one.loss == pytest.approx(two.loss, rel=1e-4)
