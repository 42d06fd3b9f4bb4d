"""Starting from weights: a new head, a frozen backbone, a slower backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from effnet_core.data.loader import Batch
from effnet_core.errors import CheckpointError
from effnet_core.events import Event
from effnet_core.jobs.collective import Group, is_statistic
from effnet_core.jobs.job import CHECKPOINTS_NAME
from effnet_core.model.network import create_model
from effnet_core.train import loop, saving
from effnet_core.train.resume import resume
from effnet_core.train.run import Run, unfreeze
from effnet_core.train.update import update
from effnet_core.weights import checkpoint
from effnet_core.weights.checkpoint import Sidecar
from tests.cells.test_loop import prepared, resumed, save, setup
from tests.support.tiny import tiny_config

pytestmark = pytest.mark.usefixtures("one_block")

Values = dict[str, np.ndarray[Any, Any]]


def values(run: Run) -> Values:
    return {p.name: p.asnumpy().copy() for p in run.setup.network.get_parameters()}


def changed(before: Values, after: Values) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def one_step(run: Run) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 3, 32, 32)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32) % 3
    run.set_train()
    run.progress.step = max(run.progress.step, 2)  # the first steps' rate is next to nothing
    update(run, [Batch(Tensor(images), Tensor(labels), 8)])


@pytest.fixture
def of_seven(data_dir: Path, tmp_path: Path) -> Path:
    """Weights of the same network with seven classes, all 0.5, BatchNorm as if it had seen images."""
    run = prepared(data_dir, tmp_path / "seven")
    network = create_model("efficientnet_tiny", num_classes=7, seed=5)
    sidecar = saving.describe_checkpoint(run, training_state=False)
    facts = {**vars(sidecar), "class_names": tuple("abcdefg")}
    path = tmp_path / "seven.ckpt"
    checkpoint.save(path, network.get_parameters(), Sidecar(**facts))
    return path


@pytest.mark.parametrize("said", ["model.num_classes=3", "model.new_head=true"])
def test_other_classes_start_a_new_head_only_where_that_is_said(
    said: str, data_dir: Path, tmp_path: Path, of_seven: Path, events: list[Event]
) -> None:
    silent = setup(data_dir, tmp_path / "a", f"model.weights={of_seven}")
    with pytest.raises(CheckpointError) as caught:
        resume(silent)
    assert "set model.new_head=true to start a new head on its backbone" in str(caught.value)

    fresh = setup(data_dir, tmp_path / "b", f"model.weights={of_seven}", said)
    assert fresh.network.classifier.weight.asnumpy().any()
    after = values(resume(fresh))
    source = create_model("efficientnet_tiny", num_classes=7, seed=5)
    for parameter in source.get_parameters():
        if parameter.name.startswith("classifier."):
            assert not after[parameter.name].any()
        else:
            assert np.array_equal(after[parameter.name], parameter.asnumpy())
    assert after["classifier.weight"].shape[0] == 3
    assert "its 7 classes are replaced by a new head of 3" in events[-1].message


def test_the_same_classes_keep_their_head(data_dir: Path, tmp_path: Path) -> None:
    path = save(
        prepared(data_dir, tmp_path / "a"), tmp_path / "w.ckpt", value=3, step=1, state=False
    )
    run = resumed(data_dir, tmp_path / "b", f"model.weights={path}", "model.num_classes=3")
    assert (values(run)["classifier.weight"] == 3).all()


def test_weights_of_another_padding_are_refused(data_dir: Path, tmp_path: Path) -> None:
    run = prepared(data_dir, tmp_path / "a")
    path = save(run, tmp_path / "w.ckpt", value=3, step=1, state=False, padding="same")
    with pytest.raises(CheckpointError, match="and same padding, the run"):
        resumed(data_dir, tmp_path / "b", f"model.weights={path}")
    resumed(data_dir, tmp_path / "c", f"model.weights={path}", "model.padding=same")


def test_a_frozen_backbone_keeps_weights_and_statistics(
    data_dir: Path, tmp_path: Path, of_seven: Path
) -> None:
    options = (f"model.weights={of_seven}", "model.num_classes=3", "train.freeze_epochs=1")
    run = resumed(data_dir, tmp_path / "run", *options)
    assert (run.progress.frozen, run.setup.frozen_steps) == (True, 3)
    head = (
        run.setup.network.classifier.weight
    )  # as if it had learned something, to send gradients back
    head.set_data(Tensor(np.random.default_rng(0).standard_normal(head.shape).astype(np.float32)))
    before = values(run)
    one_step(run)
    frozen = values(run)
    assert changed(before, frozen) == {"classifier.weight", "classifier.bias"}
    unfreeze(run)
    one_step(run)
    assert changed(frozen, values(run)) == set(before)


def test_frozen_statistics_stay_while_everything_else_learns(
    data_dir: Path, tmp_path: Path, of_seven: Path
) -> None:
    options = (f"model.weights={of_seven}", "model.num_classes=3", "train.freeze_bn=true")
    run = resumed(data_dir, tmp_path / "run", *options)
    head = run.setup.network.classifier.weight
    head.set_data(Tensor(np.random.default_rng(0).standard_normal(head.shape).astype(np.float32)))
    before = values(run)
    one_step(run)
    statistics = {name for name in before if is_statistic(name)}
    assert statistics and changed(before, values(run)) == set(before) - statistics


@pytest.mark.parametrize(("step", "frozen"), [(2, True), (3, True), (4, False)])
def test_a_frozen_run_is_resumed_with_its_own_optimizer_state(
    step: int, frozen: bool, data_dir: Path, tmp_path: Path, of_seven: Path
) -> None:
    options = (f"model.weights={of_seven}", "model.num_classes=3", "train.freeze_epochs=1")
    run = prepared(data_dir, tmp_path / "run", *options)
    if not frozen:
        unfreeze(run)
    save(run, checkpoint.step_path(tmp_path / "run" / CHECKPOINTS_NAME, step), value=2, step=step)
    fresh = resumed(data_dir, tmp_path / "run", *options)
    assert (fresh.progress.step, fresh.progress.frozen) == (step, frozen)
    learning = len(fresh.setup.network.trainable_params())
    assert len(fresh.optimizer.parameters) == (2 if frozen else learning)


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_a_slower_backbone_moves_by_its_share(name: str, data_dir: Path, tmp_path: Path) -> None:
    moves = {}
    for scale in (1.0, 0.125):
        run = prepared(
            data_dir,
            tmp_path / str(scale),
            f"optim.name={name}",
            "optim.momentum=0",
            f"optim.backbone_lr_scale={scale}",
        )
        before = values(run)
        one_step(run)
        after = values(run)
        learned = [p.name for p in run.setup.network.trainable_params()]
        moves[scale] = {key: float(np.abs(after[key] - before[key]).sum()) for key in learned}
    for key, move in moves[1.0].items():
        share = 1.0 if key.startswith("classifier.") else 0.125
        assert moves[0.125][key] == pytest.approx(
            share * move, rel=2e-2, abs=1e-7 * before[key].size
        ), key


def test_a_fine_tuned_run_from_end_to_end(
    data_dir: Path, tmp_path: Path, of_seven: Path, events: list[Event]
) -> None:
    config = tiny_config(
        f"model.weights={of_seven}",
        "model.num_classes=3",
        "train.freeze_epochs=1",
        "optim.backbone_lr_scale=0.1",
    )
    (tmp_path / "run").mkdir()
    result = loop.train(config, Group(0, 1), data_dir=data_dir, run_dir=tmp_path / "run")
    assert (result.steps, result.evaluation.seen) == (6, 12)
    assert any("the whole network learns from step 4 on" in event.message for event in events)
