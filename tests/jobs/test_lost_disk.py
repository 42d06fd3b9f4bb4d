"""Disks that fill up and folders that go away under a running job, on real file systems."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.errors import CheckpointError, DataError, EffnetError
from effnet_core.jobs.job import CHECKPOINTS_NAME, METRICS_NAME
from effnet_core.system.files import read_jsonl
from effnet_core.weights import checkpoint
from tests.support.tiny import small_config, tiny_config

pytestmark = pytest.mark.mindspore


def test_a_full_disk_is_named_and_the_last_checkpoint_is_good(
    data_dir: Path, tmp_path: Path, mount: Callable[[str], Path]
) -> None:
    run_dir = mount("700k") / "run"
    config = tiny_config("train.epochs=10", "train.keep_checkpoints=100")
    with pytest.raises(EffnetError) as caught:
        api.train(config, data_dir, run_dir)
    assert isinstance(caught.value, CheckpointError | DataError)
    message = str(caught.value)
    assert "no space left on device" in message
    if isinstance(caught.value, CheckpointError):
        assert re.search(r"it needs [\d,]+ bytes and [\d,]+ are free", message)
    newest = checkpoint.newest(run_dir / CHECKPOINTS_NAME)
    assert newest is not None
    before = newest.sidecar.step
    assert 0 < before < 30
    # With room it continues from there.
    subprocess.run(["mount", "-o", "remount,size=20m", str(run_dir.parent)], check=True)
    result = api.train(config, data_dir, run_dir)
    assert (result.steps, result.resumed_from_step) == (30, before)


def test_a_shared_folder_that_goes_away_is_named_and_nothing_is_written_in_its_place(
    data_dir: Path, tmp_path: Path, mount: Callable[[str], Path]
) -> None:
    disk = mount("50m")
    run_dir = disk / "run"

    def take_away() -> None:
        while len(read_jsonl(run_dir / METRICS_NAME)) < 10:
            time.sleep(0.05)
        subprocess.run(["umount", "-l", str(disk)], check=True)

    thief = threading.Thread(target=take_away, daemon=True)
    thief.start()
    with pytest.raises(EffnetError, match=r"no such file or directory.*bring i"):
        api.train(small_config("train.epochs=4000"), data_dir, run_dir)
    thief.join()
    assert not list(disk.rglob("*.ckpt"))
