"""As many ranks as a large machine has GPUs, on the CPU's collective."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from effnet_core import api
from tests.jobs.test_two_ranks import rank_lines
from tests.support.tiny import tiny_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_eight_ranks_train_and_evaluate_together(data_dir: Path, tmp_path: Path) -> None:
    eight = tiny_config("runtime.world_size=8", "train.epochs=1", "schedule.warmup_epochs=0.5")
    result = api.train(eight, data_dir, tmp_path / "run")
    assert result.world_size == 8
    logs = ["\n".join(rank_lines(tmp_path / "run", rank)) for rank in range(8)]
    digests = {re.findall(r"final weights sha256 (\w{64})", log)[0] for log in logs}
    assert digests == {result.weights_digest}
    shards = [re.findall(r"epoch 1 shard (\w+)", log)[0] for log in logs]
    assert len(set(shards)) == 8  # each its own images
    alone = api.evaluate(result.checkpoint, data_dir, config=tiny_config())
    assert (result.evaluation.correct1, result.evaluation.seen) == (alone.correct1, alone.seen)
    assert result.evaluation.loss == pytest.approx(alone.loss, rel=1e-4)
