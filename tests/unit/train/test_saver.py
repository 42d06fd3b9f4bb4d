"""Checkpoints of a run whose folder goes away."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import CheckpointError
from effnet_core.train.saver import Saver
from effnet_core.weights.checkpoint import Sidecar, step_path

SIDECAR = Sidecar(
    "efficientnet_b0",
    ("a", "b"),
    PreprocessSpec(8, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3),
    0.99,
    1e-3,
    0,
    0,
    True,
)


def test_a_run_folder_that_has_gone_is_not_made_anew(tmp_path: Path) -> None:
    """A share that is unmounted leaves an empty folder; a checkpoint there would be lost from sight."""
    run_dir = tmp_path / "share" / "run"
    run_dir.mkdir(parents=True)
    saver = Saver(run_dir / "checkpoints", keep=2)
    arrays = {"weight": np.zeros(3, np.float32)}
    saver.save(step_path(saver.folder, 1), arrays, SIDECAR)
    saver.join()
    assert step_path(saver.folder, 1).is_file()

    shutil.rmtree(run_dir)
    saver.save(step_path(saver.folder, 2), arrays, SIDECAR)
    with pytest.raises(CheckpointError, match=r"no such file or directory.*bring its folder back"):
        saver.join()
    saver.close()
    assert not list((tmp_path / "share").iterdir())
