"""Everything that changes during a run comes back when it is resumed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from effnet_core.errors import CheckpointError
from effnet_core.jobs.job import CHECKPOINTS_NAME
from effnet_core.train import saving
from effnet_core.train.resume import resume
from effnet_core.train.run import Run, start, step_cell, unfreeze
from effnet_core.train.state import Best, Losses, Progress
from effnet_core.weights import checkpoint
from tests.cells.test_loop import setup

LATER_FIELDS = ("step", "frozen", "lr", "metrics", "equal_since")
"""Fields that the first versions did not write into a sidecar's ``progress``."""


def another(value: Any) -> Any:
    """A value of the same kind that differs in every part."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return type(value)(**{name: another(getattr(value, name)) for name in names})
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + (1 if isinstance(value, int) else 1 / 3)
    if isinstance(value, dict):
        return {**value, "top1": 0.1 + 0.2, "top5": None}
    raise AssertionError(f"say here what another {type(value).__name__} is")


def saved(run: Run) -> None:
    saver = saving.open_saver(run)
    saving.save(run, saver)
    saver.join()
    saver.close()


def test_every_field_of_progress_survives_a_checkpoint(data_dir: Path, tmp_path: Path) -> None:
    """The fields come from the dataclass, so a new one that is not restored fails here."""
    fresh = setup(data_dir, tmp_path / "run")
    before = start(fresh).progress
    run = Run(fresh, another(before), step_cell(fresh, frozen=not before.frozen))
    saved(run)
    found = resume(setup(data_dir, tmp_path / "run")).progress
    for field in dataclasses.fields(Progress):
        expected = getattr(run.progress, field.name)
        assert expected != getattr(before, field.name), f"the test leaves {field.name} as it was"
        assert getattr(found, field.name) == expected, f"{field.name} is not restored"


@pytest.mark.parametrize(("step", "frozen"), [(2, True), (4, False)])
def test_a_checkpoint_of_an_earlier_version_is_resumed(
    step: int, frozen: bool, data_dir: Path, tmp_path: Path
) -> None:
    """Its sidecar's ``progress`` lacks fields, which are taken from the rest of the sidecar."""
    weights = ("model.weights=w.ckpt", "train.freeze_epochs=1")  # never read: there is a checkpoint
    run = start(setup(data_dir, tmp_path / "run", *weights))
    run.progress.step = step
    if not frozen:
        unfreeze(run)
    run.progress.losses, run.progress.best = Losses(4.0, 2, 1.5), Best(0.5, 3, 1)
    run.progress.metrics, run.progress.spent_s = {"top1": 0.5, "top5": None, "loss": 1.0}, 7.25
    saved(run)
    path = checkpoint.sidecar_path(checkpoint.step_path(tmp_path / "run" / CHECKPOINTS_NAME, step))
    sidecar = json.loads(path.read_text())
    for name in LATER_FIELDS:
        del sidecar["progress"][name]
    path.write_text(json.dumps(sidecar))
    found = resume(setup(data_dir, tmp_path / "run", *weights))
    assert found.progress == run.progress
    assert len(found.optimizer.parameters) == len(run.optimizer.parameters)


def test_progress_of_a_later_version_is_refused(data_dir: Path, tmp_path: Path) -> None:
    run = start(setup(data_dir, tmp_path / "run"))
    run.progress.step = 2
    saved(run)
    path = checkpoint.sidecar_path(checkpoint.step_path(tmp_path / "run" / CHECKPOINTS_NAME, 2))
    sidecar = json.loads(path.read_text())
    sidecar["progress"]["moon"] = "full"
    path.write_text(json.dumps(sidecar))
    with pytest.raises(CheckpointError, match="resume with the version that wrote it"):
        resume(setup(data_dir, tmp_path / "run"))


def test_a_frozen_checkpoint_can_be_continued_without_freezing(
    data_dir: Path, tmp_path: Path
) -> None:
    """What its optimizer state is for follows from the checkpoint, not from the settings of today."""
    weights = ("model.weights=w.ckpt", "train.freeze_epochs=1")
    run = start(setup(data_dir, tmp_path / "run", *weights))
    run.progress.step = 2
    saved(run)
    found = resume(setup(data_dir, tmp_path / "run"))
    assert found.progress.frozen
    assert len(found.optimizer.parameters) == 2
