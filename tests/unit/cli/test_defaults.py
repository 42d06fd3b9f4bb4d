"""What ``effnet predict`` takes where nobody names weights: production, the newest run, a package's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from effnet_core.cli import defaults
from effnet_core.cli.defaults import choose_weights, own_folder
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import ConfigError, StoreDamaged
from effnet_core.jobs.job import RESULT_NAME
from effnet_core.model_store.production import promote
from effnet_core.weights.checkpoint import MODEL_NAME
from tests.unit.model_store.test_publication import put


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def storage() -> StorageConfig:
    return StorageConfig(root="store", name="animals")


def finished(folder: str, *, at: int, result: bool = True) -> Path:
    run = Path("runs", folder)
    run.mkdir(parents=True)
    (run / MODEL_NAME).write_text("")
    os.utime(run / MODEL_NAME, (at, at))
    if result:
        (run / RESULT_NAME).write_text("{}")
    return run


def test_production_comes_first(tmp_path: Path, storage: StorageConfig) -> None:
    finished("train/b", at=3)
    put(tmp_path / "made", storage, "v1", promote=False)
    assert choose_weights(storage)[0] == "runs/train/b"  # published, and not promoted
    promote(storage, "v1", gate=EvaluateConfig())
    assert choose_weights(storage) == ("production", "production of 'animals' in store")


def test_a_store_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, storage: StorageConfig
) -> None:
    put(tmp_path / "made", storage, "v1")
    Path("store/animals/production.json").write_text("{")
    with pytest.raises(StoreDamaged):
        choose_weights(storage)


def test_then_the_newest_training_that_has_ended(storage: StorageConfig) -> None:
    finished("train/old", at=1)
    newest = finished("all/train", at=5)
    finished("first", at=4)
    finished("train/cut", at=9, result=False)
    assert choose_weights(storage)[0] == str(newest)


def test_then_those_of_a_package_and_else_a_sentence(
    storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_weights(storage)[0] == "efficientnet_lite0"
    monkeypatch.setattr(defaults, "installed_file", lambda _: None)
    with pytest.raises(ConfigError, match=r"--weights is needed: store has no production of 'ani"):
        choose_weights(storage)


def test_two_calls_in_one_second_get_two_folders() -> None:
    first = own_folder("predict")
    first.mkdir(parents=True)
    assert own_folder("predict") != first
