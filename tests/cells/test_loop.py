"""Parts of the training loop: what a run starts from, and when it refuses to continue."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from mindspore import Tensor

from effnet_core.data.loader import Batch
from effnet_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    TrainingDiverged,
)
from effnet_core.events import Event
from effnet_core.jobs.collective import Group
from effnet_core.jobs.job import CHECKPOINTS_NAME, METRICS_NAME
from effnet_core.results import EvalResult
from effnet_core.system.files import append_jsonl, read_jsonl
from effnet_core.train import loop, metrics, saving
from effnet_core.train.resume import resume
from effnet_core.train.run import Run, start
from effnet_core.train.session import open_session
from effnet_core.train.setup import Setup, prepare
from effnet_core.train.step import MESSAGE_SIZE
from effnet_core.train.tracking import Trackers
from effnet_core.train.update import update
from effnet_core.weights import checkpoint
from effnet_core.weights.checkpoint import Sidecar
from tests.support.tiny import tiny_config


def prepared(data_dir: Path, run_dir: Path, *overrides: str) -> Run:
    """A run of 2 epochs of 3 steps, before its first."""
    return start(setup(data_dir, run_dir, *overrides))


def setup(data_dir: Path, run_dir: Path, *overrides: str) -> Setup:
    run_dir.mkdir(exist_ok=True)
    return prepare(tiny_config(*overrides), Group(0, 1), data_dir=data_dir, run_dir=run_dir)


def resumed(data_dir: Path, run_dir: Path, *overrides: str) -> Run:
    """A run as it starts from what is there."""
    return resume(setup(data_dir, run_dir, *overrides))


def fill(run: Run, value: float) -> None:
    for parameter in run.setup.network.get_parameters():
        parameter.set_data(Tensor(np.full(parameter.shape, value, np.float32)))


def value_of(run: Run) -> float:
    return float(run.setup.network.classifier.bias.asnumpy()[0])


def save(run: Run, path: Path, *, value: float, step: int, state: bool = True, **facts: object):
    """Leave a checkpoint whose weights are all ``value``."""
    fill(run, value)
    run.progress.step = step
    parameters = run.parameters() if state else run.setup.network.get_parameters()
    sidecar = saving.describe_checkpoint(run, training_state=state)
    checkpoint.save(path, parameters, Sidecar(**{**vars(sidecar), **facts}))
    return path


@pytest.fixture
def sources(data_dir: Path, tmp_path: Path) -> dict[str, str]:
    """Something to start from, by setting."""
    run = prepared(data_dir, tmp_path / "earlier")
    resume = save(run, tmp_path / "resume.ckpt", value=2, step=4)
    weights = save(run, tmp_path / "weights.ckpt", value=3, step=6, state=False)
    return {"train.resume_from": str(resume), "model.weights": str(weights)}


def test_the_order_in_which_starting_points_count(
    data_dir: Path, tmp_path: Path, sources: dict[str, str]
) -> None:
    """Last checkpoint of the run > train.resume_from > model.weights > scratch."""
    run_dir = tmp_path / "run"
    run = resumed(data_dir, run_dir)
    assert (run.progress.step, run.resumed_from, value_of(run)) == (0, 0, 0.0)

    only_weights = [f"model.weights={sources['model.weights']}"]
    both = [*only_weights, f"train.resume_from={sources['train.resume_from']}"]
    seen = []
    for overrides in (only_weights, both):
        run = resumed(data_dir, run_dir, *overrides)
        seen.append((run.progress.step, value_of(run)))
    assert seen == [(0, 3.0), (4, 2.0)]

    folder = run_dir / CHECKPOINTS_NAME
    save(run, checkpoint.step_path(folder, 5), value=9, step=5)
    newest = save(run, checkpoint.step_path(folder, 6), value=8, step=6)
    newest.write_bytes(b"cut")
    run = resumed(data_dir, run_dir, *both)
    assert (run.progress.step, run.resumed_from, value_of(run)) == (5, 5, 9.0)


def test_optimizer_state_is_resumed_too(data_dir: Path, tmp_path: Path) -> None:
    first = prepared(data_dir, tmp_path / "a")
    states = [p for p in first.optimizer.get_parameters() if p.name.startswith("mean_square.")]
    assert len(states) == len(first.setup.network.trainable_params())
    for parameter in states:
        parameter.set_data(Tensor(np.full(parameter.shape, 0.5, np.float32)))
    path = save(first, tmp_path / "s.ckpt", value=1, step=3)
    second = resumed(data_dir, tmp_path / "b", f"train.resume_from={path}")
    found = [p for p in second.optimizer.get_parameters() if p.name.startswith("mean_square.")]
    assert all((p.asnumpy() == 0.5).all() for p in found)


def test_starting_points_that_do_not_fit(
    data_dir: Path, tmp_path: Path, sources: dict[str, str]
) -> None:
    run = prepared(data_dir, tmp_path / "earlier")
    cases = [
        (f"train.resume_from={sources['model.weights']}", CheckpointError, "holds weights only"),
        (
            f"train.resume_from={save(run, tmp_path / 'far.ckpt', value=1, step=7)}",
            ConfigError,
            "is at step 7, beyond the 6 steps of this run; raise train.epochs",
        ),
        (
            f"model.weights={save(run, tmp_path / 'b0.ckpt', value=1, step=1, variant='efficientnet_b0')}",
            CheckpointError,
            "is of variant efficientnet_b0, the run trains efficientnet_tiny",
        ),
        (
            f"model.weights={save(run, tmp_path / 'c.ckpt', value=1, step=1, class_names=('a', 'b', 'c'))}",
            CheckpointError,
            "or their names differ",
        ),
        (f"model.weights={tmp_path / 'gone.ckpt'}", CheckpointError, "does not exist"),
    ]
    for override, kind, message in cases:
        fresh = setup(data_dir, tmp_path / "run", override)
        with pytest.raises(kind) as caught:
            resume(fresh)
        assert message in str(caught.value)


def test_lines_of_steps_that_will_be_done_again_are_dropped(
    data_dir: Path, tmp_path: Path, sources: dict[str, str]
) -> None:
    path = tmp_path / "run" / METRICS_NAME
    path.parent.mkdir()
    for step in (3, 4, 5, 6):
        append_jsonl(path, {"kind": "train", "step": step})
    resumed(data_dir, tmp_path / "run", f"train.resume_from={sources['train.resume_from']}")
    assert [row["step"] for row in read_jsonl(path)] == [3, 4]


class Recorder:
    """In the place of a compiled step: notes the masks that it is given."""

    def __init__(self, run: Run) -> None:
        self.optimizer = run.optimizer
        self.masks: list[bytes | None] = []

    def __call__(self, _images: Tensor, _labels: Tensor, _control: Tensor, *scales: Tensor | None):
        self.masks += [None if scale is None else scale.asnumpy().tobytes() for scale in scales]
        return Tensor(np.zeros(MESSAGE_SIZE, np.float32))


def test_masks_and_rate_follow_step_and_rank(data_dir: Path, tmp_path: Path) -> None:
    """A resumed run draws what the straight run would have drawn; ranks draw apart."""
    nothing = Tensor(np.zeros(1, np.float32))

    def of(step: int, rank: int) -> tuple[float, list[bytes | None]]:
        run = prepared(data_dir, tmp_path / "run", "model.drop_path_rate=0.5")
        run.setup = replace(run.setup, group=Group(rank, 2))
        run.progress.step = step
        run.cell = recorder = Recorder(run)
        update(run, [Batch(nothing, nothing, 8)])
        return float(run.optimizer.learning_rate.asnumpy()), recorder.masks

    rate, masks = of(0, 0)
    assert of(0, 0) == (rate, masks)
    assert rate == pytest.approx(0.0005 / 3)  # a third of warm-up, 8 images of 256
    assert of(1, 0)[0] == pytest.approx(2 * rate)
    for step, rank in ((1, 0), (0, 1)):
        assert all(a != b for a, b in zip(of(step, rank)[1], masks, strict=True))


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("model.num_classes=4", ConfigError, "model.num_classes=4 but the data set"),
        ("data.global_batch_size=25", DataError, "global_batch_size=25 is more than the 24 images"),
        ("data.train_split=trian", DataError, "did you mean 'train'?"),
        ("data.eval_split=test", DataError, "no images in split 'test'"),
        ("schedule.min_lr=1", ConfigError, "schedule.min_lr=1 is above the peak rate"),
    ],
)
def test_data_and_settings_that_do_not_fit(
    data_dir: Path, tmp_path: Path, override: str, kind: type, message: str
) -> None:
    with pytest.raises(kind) as caught:
        prepared(data_dir, tmp_path / "run", override)
    assert message in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_says_where(
    data_dir: Path, tmp_path: Path, bad: float
) -> None:
    run = prepared(data_dir, tmp_path / "run")
    run.progress.step, run.progress.lr = 5, 0.125
    with pytest.raises(TrainingDiverged) as caught:
        metrics.flush(run, [1.0, bad, 2.0])
    message = str(caught.value)
    assert f"the loss became {bad} at step 4 of 6 (checked in steps 3-5)" in message
    assert "learning rate of 0.125" in message
    assert not caught.value.retryable


def test_a_line_of_the_log(data_dir: Path, tmp_path: Path, events: list[Event]) -> None:
    run = prepared(data_dir, tmp_path / "run")
    run.progress.step, run.progress.lr = 5, float(run.setup.schedule[4])  # 2nd of the 2nd epoch
    pending = [1.0, 2.0, 3.0]
    assert (metrics.flush(run, pending), pending) == (3, [])
    metrics.log_step(run, Trackers([]), steps=2, seconds=0.5)
    assert events[-1].message == (
        "epoch 2/2 step 2/3 loss 3.000 (mean 2.000) lr 0.00038 250 ms/step 32.0 images/s"
    )
    [row] = read_jsonl(run.setup.run_dir / METRICS_NAME)
    assert {"epoch": 2, "step": 5, "loss": 3.0, "loss_mean": 2.0}.items() <= row.items()
    assert (events[-1].done, events[-1].total) == (5, 6)


def test_a_run_of_steps_is_counted_in_steps(
    data_dir: Path, tmp_path: Path, events: list[Event]
) -> None:
    """Not as epoch 1/1 while it lasts and epoch 0/1 at its end, inside the first epoch."""
    lines = {"2 steps": "step 2/2", "1 minutes": "step 2", "16 images": "step 2/2"}
    for number, (budget, position) in enumerate(lines.items()):
        settings = f"train.budget={budget}", "schedule.warmup_epochs=0"
        run = prepared(data_dir, tmp_path / f"run-{number}", *settings)
        run.progress.step = 2
        metrics.flush(run, [1.0])
        metrics.log_step(run, Trackers([]), steps=1, seconds=1.0)
        assert events[-1].message.startswith(f"{position} loss 1.000")
        metrics.log_evaluation(run, Trackers([]), EvalResult(4, 2, 4, 1.0, split="val"))
        assert events[-1].message == f"{position} top-1 50.00% on 4 images of val"


def test_a_run_folder_that_disappears_is_named(data_dir: Path, tmp_path: Path) -> None:
    run = prepared(data_dir, tmp_path / "run")
    run.progress.step = 3
    metrics.flush(run, [1.0])
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError) as caught:
        metrics.log_step(run, Trackers([]), steps=1, seconds=1.0)
    assert str(caught.value) == (
        f"run folder {tmp_path / 'run'} can no longer be written to (no such file or directory) at step "
        "3; bring it back, and the same command continues from the last checkpoint"
    )


def test_a_stop_during_the_evaluation_of_an_epoch_saves_that_epoch(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(data_dir, tmp_path / "run")
    run.progress.step, run.progress.epoch_finished = run.setup.steps_per_epoch, False
    monkeypatch.setattr("effnet_core.train.evaluate.stop_requested", lambda: True)
    with (
        pytest.raises(Interrupted, match=r"training was stopped at step 3 of 6 and saved"),
        open_session(run) as session,
    ):
        loop._finish_epoch(run, session)
    saved = checkpoint.newest(tmp_path / "run" / CHECKPOINTS_NAME)
    assert saved is not None
    assert saved.sidecar.step == 3
    fresh = resumed(data_dir, tmp_path / "run")
    assert not fresh.progress.epoch_finished  # it will be evaluated first of all


# --- saving --------------------------------------------------------------------------------------


def test_a_save_that_fails_is_reported_by_the_next_and_spoils_nothing(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(data_dir, tmp_path / "run")
    folder = tmp_path / "run" / CHECKPOINTS_NAME
    saver = saving.open_saver(run)
    run.progress.step = 1
    saving.save(run, saver)
    saver.join()

    def full(target: Path, _: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_ckpt", full)
        run.progress.step = 2
        saving.save(run, saver)
        with pytest.raises(
            CheckpointError, match=r"no space left on device\); it needs [\d,]+ bytes"
        ):
            saver.join()
    saver.close()
    found = checkpoint.newest(folder)
    assert found is not None and found.path == checkpoint.step_path(folder, 1)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000001.ckpt", "step-00000001.json"]


def test_a_checkpoint_holds_what_the_parameters_were_when_it_was_asked_for(
    data_dir: Path, tmp_path: Path
) -> None:
    """Steps continue while it is written."""
    run = prepared(data_dir, tmp_path / "run")
    saver = saving.open_saver(run)
    fill(run, 1.0)
    run.progress.step = 3
    with mock.patch.object(saver, "save") as save_arrays:
        saving.save(run, saver)
    fill(run, 2.0)
    arrays = save_arrays.call_args.args[1]
    assert (arrays["classifier.bias"] == 1.0).all()


def test_statistics_of_each_rank_come_back_to_it_or_their_mean_to_others(
    data_dir: Path, tmp_path: Path
) -> None:
    run = prepared(data_dir, tmp_path / "run")
    size = sum(p.size for p in run.statistics())
    of_ranks = np.stack([np.full(size, value, np.float32) for value in (1.0, 3.0)])
    folder = tmp_path / "run" / CHECKPOINTS_NAME
    arrays = {p.name: p.asnumpy().copy() for p in run.parameters()}
    run.progress.step = 2
    sidecar = saving.describe_checkpoint(run, training_state=True)
    path = checkpoint.step_path(folder, 2)
    checkpoint.save_arrays(path, {**arrays, saving.RANK_STATISTICS: of_ranks}, sidecar)
    seen = []
    for group in (Group(0, 2), Group(1, 2), Group(0, 1)):
        fresh = resume(replace(setup(data_dir, tmp_path / "run"), group=group))
        values = np.concatenate([p.asnumpy().reshape(-1) for p in fresh.statistics()])
        seen.append(set(values.tolist()))
    assert seen == [{1.0}, {3.0}, {2.0}]
