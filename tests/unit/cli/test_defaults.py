"""What ``effnet predict`` takes where nobody names weights: production, the newest run, a package's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from effnet_core.cli import defaults
from effnet_core.cli.defaults import (
    choose_trained,
    choose_weights,
    data_of,
    own_folder,
    run_to_publish,
)
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import ConfigError, StoreDamaged
from effnet_core.jobs.job import JOB_NAME, RESULT_NAME, TrainJob, job_to_dict
from effnet_core.model_store.production import promote
from effnet_core.system.files import write_json
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
    finished("train/cut/probe", at=8)  # the first model of a run that has not ended
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


def test_what_is_measured_and_exported_is_the_newest_training_and_else_production(
    tmp_path: Path, storage: StorageConfig
) -> None:
    with pytest.raises(
        ConfigError, match=r"--weights is needed: runs/ has no finished training, and"
    ):
        choose_trained(storage)
    with pytest.raises(ConfigError, match=r"the folder of a training run is needed"):
        run_to_publish()
    put(tmp_path / "made", storage, "v1")
    promote(storage, "v1", gate=EvaluateConfig())
    assert choose_trained(storage) == ("production", "production of 'animals' in store")
    newest = finished("train/b", at=3)
    assert choose_trained(storage)[0] == str(newest)
    assert run_to_publish() == newest


def test_a_training_is_measured_on_its_own_data(tmp_path: Path) -> None:
    run, data = finished("train/b", at=3), tmp_path / "data"
    with pytest.raises(
        ConfigError, match="--data is needed: runs/train/b is not the folder of a tr"
    ):
        data_of(str(run))
    write_json(run / JOB_NAME, job_to_dict(TrainJob(data, "0" * 64)))
    with pytest.raises(ConfigError, match=r"data is needed: .*/data, the data set of .*, has gone"):
        data_of(str(run))
    data.mkdir()
    assert data_of(str(run)) == data_of(str(run / MODEL_NAME)) == data
    with pytest.raises(ConfigError, match="--data is needed: production is not the folder"):
        data_of("production")
