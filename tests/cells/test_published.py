"""Which weights a run evaluates, keeps as the best and delivers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from effnet_core.jobs.collective import Group, parameters_digest
from effnet_core.jobs.job import CHECKPOINTS_NAME
from effnet_core.model.network import create_model
from effnet_core.results import EvalResult
from effnet_core.train import loop
from effnet_core.weights.checkpoint import BEST_NAME, MODEL_NAME, open_checkpoint
from effnet_core.weights.ckpt_file import read_ckpt
from effnet_core.weights.load import load_parameters
from tests.support.tiny import tiny_config

TOPS = (3, 9, 6)
"""Of 12 images, right after each epoch: the second is the best."""


Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Trained:
    """What a run of three epochs left, of whose checkpoints the newest one is kept."""

    folder: Path
    evaluated: list[str]
    """Digest of the weights that each evaluation got."""

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS_NAME

    @property
    def last(self) -> Path:
        [found] = self.checkpoints.glob("step-*.ckpt")
        return found

    @property
    def model(self) -> Path:
        return self.folder / MODEL_NAME


def trained(data_dir: Path, folder: Path, average: str) -> Trained:
    evaluated: list[str] = []

    def evaluate(network: Any, *_: object, **__: object) -> EvalResult:
        evaluated.append(parameters_digest(network.get_parameters()))
        right = TOPS[len(evaluated) - 1]
        return EvalResult(seen=12, correct1=right, correct5=12, loss=1.0)

    config = tiny_config("train.epochs=3", "train.keep_checkpoints=1", f"train.ema_decay={average}")
    with mock.patch.object(loop, "evaluate_network", evaluate):
        loop.train(config, Group(0, 1), data_dir=data_dir, run_dir=folder)
    return Trained(folder, evaluated)


@pytest.fixture(scope="module")
def with_average(
    one_block: None, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    return trained(data_dir, tmp_path_factory.mktemp("average"), "0.9")


@pytest.fixture(scope="module")
def plain(one_block: None, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(data_dir, tmp_path_factory.mktemp("plain"), "0")


def weights(path: Path) -> Arrays:
    """What the network itself has in a checkpoint."""
    return {
        name: array
        for name, array in read_ckpt(path).items()
        if name.startswith(("stem.", "blocks.", "head.", "classifier."))
    }


def averages(path: Path) -> Arrays:
    """The moving average in a training checkpoint, under the names of the network."""
    found = read_ckpt(path).items()
    return {name.removeprefix("ema."): a for name, a in found if name.startswith("ema.")}


def same(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_moving_average_is_delivered_and_saved_beside_the_weights(
    with_average: Trained,
) -> None:
    assert same(averages(with_average.last), weights(with_average.model))
    # Training would continue with its own weights.
    assert not same(weights(with_average.last), weights(with_average.model))


def test_without_one_the_weights_are_delivered(plain: Trained) -> None:
    assert same(weights(plain.last), weights(plain.model))
    assert not averages(plain.last)


@pytest.mark.parametrize("run", ["plain", "with_average"])
def test_what_is_evaluated_is_what_is_delivered_and_the_best_of_it_is_kept(
    run: str, request: pytest.FixtureRequest
) -> None:
    """The best is the second epoch's, whose own checkpoint is cleared away."""
    found: Trained = request.getfixturevalue(run)
    kept = sorted(path.name for path in found.checkpoints.glob("*.ckpt"))
    assert kept == [BEST_NAME, "step-00000009.ckpt"]
    assert open_checkpoint(found.checkpoints / BEST_NAME).sidecar.step == 6
    for path, digest in (
        (found.checkpoints / BEST_NAME, found.evaluated[1]),
        (found.model, found.evaluated[2]),
    ):
        network = create_model("efficientnet_tiny", num_classes=3)
        load_parameters(open_checkpoint(path), network.get_parameters())
        assert parameters_digest(network.get_parameters()) == digest


def test_both_runs_learned_alike(plain: Trained, with_average: Trained) -> None:
    """The average only watches."""
    assert same(weights(plain.last), weights(with_average.last))
    assert not set(plain.evaluated) & set(with_average.evaluated)
