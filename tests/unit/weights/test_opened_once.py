"""A checkpoint is hashed once in each process, however many shards or commands use it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import CheckpointError
from effnet_core.export import export
from effnet_core.jobs import launch
from effnet_core.jobs.job import Job
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.system import files
from effnet_core.weights.checkpoint import opened_before
from effnet_core.worker import rank as worker
from tests.support.images import draw, encode
from tests.support.weights import make_checkpoint

CONFIG = load_config(None, ["infer.engine=onnxruntime", "infer.shard_images=2"])


class Hashes(Counter[str]):
    """How often each process hashed a checkpoint; the child's work is done in this one."""

    process = "parent"

    def run_job(self, job: Job, config: RunConfig, run_dir: Path) -> dict[str, Any]:
        self.process = "child"
        try:
            return worker._answer(job, config, None, run_dir)
        finally:
            self.process = "parent"


@pytest.fixture
def hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hashes]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    counted, digest = Hashes(), files.digest_of_file

    def counting(path: Path, algorithm: str) -> str:
        if path.suffix == ".ckpt":
            counted[counted.process] += 1
        return digest(path, algorithm)

    monkeypatch.setattr(files, "digest_of_file", counting)
    monkeypatch.setattr(launch, "run_job", counted.run_job)
    with mock.patch.object(export, "require_agreement"):
        yield counted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for index in range(5):
        (tmp_path / "in" / f"{index}.png").write_bytes(encode(draw(40, 40, seed=index)))
    return tmp_path / "in"


def test_labelling_three_shards_hashes_once_in_each_process(
    hashes: Hashes, folder: Path, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "a.ckpt")
    hashes.clear()
    assert api.infer(checkpoint, [folder], tmp_path / "out", config=CONFIG)["labelled"] == 5
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 3
    assert hashes == {"parent": 1, "child": 1}


def test_shards_in_jobs_of_their_own_cost_the_parent_nothing_more(
    hashes: Hashes, folder: Path, tmp_path: Path
) -> None:
    """As a flow does it: each shard is a task that is given a path and the plan's digest."""
    path = make_checkpoint(tmp_path / "a.ckpt")
    hashes.clear()
    model = api.open_weights(path, CONFIG.storage)
    planned = api.plan_inference(model, [folder], tmp_path / "out", config=CONFIG)
    for shard in planned.missing():
        again = opened_before(path, shard.model_sha256)
        api.infer_shards(planned, [shard], again, config=CONFIG)
    api.finish_inference(planned, model, weights="a", config=CONFIG)
    assert hashes == {"parent": 1, "child": 3}


def test_a_model_replaced_between_plan_and_shard_is_refused(
    hashes: Hashes, folder: Path, tmp_path: Path
) -> None:
    """Else a part would bear the digest of a model that did not label it."""
    path = make_checkpoint(tmp_path / "a.ckpt")
    model = api.open_weights(path, CONFIG.storage)
    planned = api.plan_inference(model, [folder], tmp_path / "out", config=CONFIG)
    make_checkpoint(path, seed=1)
    with pytest.raises(CheckpointError, match="was replaced while it was in use"):
        api.infer_shards(planned, planned.missing(), model, config=CONFIG)
