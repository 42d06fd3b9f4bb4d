"""As many ranks as a large machine has GPUs, on the CPU's collective."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from effnet_core import api
from tests.support.tiny import small_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_eight_ranks_train_and_evaluate_together(data_dir: Path, tmp_path: Path) -> None:
    eight = small_config("runtime.world_size=8", "train.epochs=1", "schedule.warmup_epochs=0.5")
    result = api.train(eight, data_dir, tmp_path / "run")
    assert result.world_size == 8
    folder = tmp_path / "run/logs"
    logs = [(folder / f"worker_{rank}.log").read_text(errors="replace") for rank in range(8)]
    assert all(f"rank {rank} of 8" in log for rank, log in enumerate(logs))
    digests = {re.findall(r"final weights sha256 (\w{64})", log)[0] for log in logs}
    assert digests == {result.weights_digest}
    shards = [re.findall(r"epoch 1 shard (\w+)", log)[0] for log in logs]
    assert len(set(shards)) == 8  # each its own images
    alone = api.evaluate(result.checkpoint, data_dir, config=small_config())
    assert (result.evaluation.correct1, result.evaluation.seen) == (alone.correct1, alone.seen)
    assert result.evaluation.loss == pytest.approx(alone.loss, rel=1e-4)
