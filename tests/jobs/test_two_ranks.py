"""Two ranks through MindSpore's own launcher."""

from __future__ import annotations

import re
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


def rank_lines(run_dir: Path, rank: int) -> list[str]:
    log = (run_dir / "logs" / f"worker_{rank}.log").read_text(errors="replace")
    return [line for line in log.splitlines() if line.startswith(f"rank {rank} of 2")]


def test_ranks_see_different_shards_and_end_with_the_same_weights(two_ranks: Run) -> None:
    run_dir, result = two_ranks
    logs = [rank_lines(run_dir, rank) for rank in (0, 1)]
    shards = [re.findall(r"epoch (\d+) shard (\w+), (\d+) images", "\n".join(log)) for log in logs]
    assert [count for _, _, count in shards[0]] == ["12", "12"]
    assert len({digest for log in shards for _, digest, _ in log}) == 4
    digests = [re.search(r"final weights sha256 (\w{64})", "\n".join(log)) for log in logs]
    assert digests[0] is not None
    assert digests[1] is not None
    assert digests[0].group(1) == digests[1].group(1) == result.weights_digest


def test_two_ranks_learn(two_ranks: Run) -> None:
    _, result = two_ranks
    assert result.world_size == 2
    assert result.steps == 2 * (24 // 8)
    assert result.evaluation.seen == 12


def test_no_newcomer_would_take_the_log_for_a_failure(two_ranks: Run) -> None:
    run_dir, _ = two_ranks
    for log in sorted((run_dir / "logs").glob("*.log")):
        text = log.read_text(errors="replace")
        for bad in ("Exception ignored", "Traceback", "[ERROR]", "[WARNING]"):
            assert bad not in text, f"{log}: {bad}"


@pytest.mark.parametrize("images", [7, 13])
def test_evaluation_does_not_depend_on_the_number_of_processes(
    images: int, one_rank: Run, tmp_path: Path
) -> None:
    """Neither 7 nor 13 divides by processes times batch (2 x 5)."""
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
