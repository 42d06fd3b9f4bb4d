"""What ranks do together, in two real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from effnet_core.data.staging import stage_dataset
from effnet_core.jobs import launch
from tests.support.images import class_folders
from tests.support.weights import make_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("collective_script.py")

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    class_folders(folder / "source" / "train", {"cat": 2, "dog": 2, "owl": 2})
    class_folders(folder / "source" / "val", {"cat": 3, "dog": 2, "owl": 2}, seed=7)
    stage_dataset(folder / "source", folder / "data")
    make_checkpoint(folder / "model.ckpt", class_names=("cat", "dog", "owl"))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GLOG_v": "3",
    }
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("msrun")), "--worker_num=2"),
            *("--local_worker_num=2", f"--master_port={launch._free_port()}"),
            *(f"--log_dir={folder}", "--join=True", str(SCRIPT), str(folder)),
        ],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_counts_are_exact(answers: list[dict[str, Any]]) -> None:
    expected = [1, 3, 8191, 8193, 2**32 + 3, 2**36 + 15]
    assert [answer["counts"] for answer in answers] == [expected, expected]


def test_floats_are_summed(answers: list[dict[str, Any]]) -> None:
    assert [answer["floats"] for answer in answers] == [[2.0], [2.0]]


def test_statistics_are_averaged(answers: list[dict[str, Any]]) -> None:
    assert [answer["average"] for answer in answers] == [[2.0, 4.0], [2.0, 4.0]]


def test_rounding_apart_ranks_take_over_rank_0(answers: list[dict[str, Any]]) -> None:
    assert [answer["no_drift"] for answer in answers] == [0.0, 0.0]
    assert answers[0]["drift"] == answers[1]["drift"] == pytest.approx(5e-7, rel=0.5)
    assert [answer["after"] for answer in answers] == [[[1.0, 2.0], 7], [[1.0, 2.0], 7]]
    assert all(answer["equal_after"] for answer in answers)


def test_more_than_rounding_is_refused(answers: list[dict[str, Any]]) -> None:
    assert all(answer["different_refused"] for answer in answers)
    assert [answer["far"] for answer in answers] == [[True, True], [True, True]]


def test_an_evaluation_by_two_ranks_is_that_of_one(answers: list[dict[str, Any]]) -> None:
    """7 images: fewer than processes times batch (2 x 5), and one rank has one more than the other."""
    alone = answers[0]["alone"]
    loss = alone.pop("loss")
    assert alone["seen"] == 7
    for answer in answers:
        assert answer["together"].pop("loss") == pytest.approx(loss, rel=1e-4)
        assert answer["together"] == alone


def test_shared_memory_gives_the_mean_of_the_collective(answers: list[dict[str, Any]]) -> None:
    assert [answer["shared"] for answer in answers] == ["equal", "equal"]


def test_no_memory_is_shared_where_one_rank_cannot(answers: list[dict[str, Any]]) -> None:
    assert [answer["not_shared"] for answer in answers] == ["None", "None"]
