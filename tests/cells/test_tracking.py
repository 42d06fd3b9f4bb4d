"""TensorBoard's event files and MLflow's folder, written by real runs and read back."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import mlflow
import pytest
from tensorboardX.proto.event_pb2 import Event as BoardEvent

from effnet_core.errors import ConfigError
from effnet_core.events import Event
from effnet_core.jobs.collective import Group
from effnet_core.jobs.job import METRICS_NAME
from effnet_core.results import EvalResult
from effnet_core.system.files import read_json, read_jsonl
from effnet_core.train import loop
from effnet_core.train.tracking import MLFLOW_NAME, Trackers, open_trackers
from tests.support.tiny import tiny_config

BOTH = "train.trackers=[tensorboard, mlflow]"


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's settings of this machine do not count."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)


def board_events(folder: Path) -> Iterator[BoardEvent]:
    """Records of (length, check sum, event, check sum)."""
    for path in sorted(folder.glob("events.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            yield BoardEvent.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length


def on_the_board(run_dir: Path) -> set[tuple[str, int, float]]:
    return {
        (value.tag, event.step, round(value.simple_value, 4))
        for event in board_events(run_dir / "tensorboard")
        for value in event.summary.value
    }


def in_mlflow(run_dir: Path, name: str) -> list[tuple[int, float]]:
    known = read_json(run_dir / MLFLOW_NAME)
    client = mlflow.MlflowClient(tracking_uri=known["tracking_uri"])
    history = client.get_metric_history(known["run_id"], name)
    return sorted((metric.step, round(metric.value, 4)) for metric in history)


def test_a_run_and_its_resumption_are_tracked_like_metrics_jsonl(
    one_block: None, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    result = EvalResult(seen=12, correct1=6, correct5=12, loss=1.5)
    monkeypatch.setattr(loop, "evaluate_network", lambda *_, **__: result)
    for epochs in (1, 2):
        config = tiny_config(BOTH, f"train.epochs={epochs}", "schedule.warmup_epochs=0")
        loop.train(config, Group(0, 1), data_dir=data_dir, run_dir=run_dir)
    rows = read_jsonl(run_dir / METRICS_NAME)
    assert [row["step"] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 6]
    board = on_the_board(run_dir)
    for kind, key in (("train", "loss"), ("train", "lr"), ("eval", "top1")):
        expected = [(row["step"], round(row[key], 4)) for row in rows if row["kind"] == kind]
        assert in_mlflow(run_dir, f"{kind}/{key}") == expected
        assert {(f"{kind}/{key}", *point) for point in expected} <= board
    known = read_json(run_dir / MLFLOW_NAME)
    assert known["tracking_uri"] == (tmp_path / "mlruns").as_uri()
    client = mlflow.MlflowClient(tracking_uri=known["tracking_uri"])
    [experiment] = [e for e in client.search_experiments() if e.name == "efficientnet"]
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["model.variant"] == "efficientnet_tiny"
    restarts = [e.step for e in board_events(run_dir / "tensorboard") if e.HasField("session_log")]
    assert restarts == [4]


def test_a_run_that_is_stopped_is_not_called_finished(tmp_path: Path) -> None:
    trackers = open_trackers(tiny_config(BOTH), tmp_path, from_step=0)
    trackers.close(finished=False)
    known = read_json(tmp_path / MLFLOW_NAME)
    client = mlflow.MlflowClient(tracking_uri=known["tracking_uri"])
    assert client.get_run(known["run_id"]).info.status == "KILLED"


def test_a_server_that_is_away_is_told_once_and_ends_nothing(events: list[Event]) -> None:
    tracker = mock.Mock()
    tracker.log.side_effect = ConnectionError("no route\nto host")
    trackers = Trackers([tracker])
    for step in (1, 2):
        trackers.log({"kind": "train", "step": step, "loss": 1.0})
    assert tracker.log.call_count == 2
    assert [event.message for event in events] == [
        "Mock takes no figures (no route); metrics.jsonl does"
    ]


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with (
        mock.patch.object(importlib, "import_module", side_effect=ImportError),
        pytest.raises(
            ConfigError, match=r"needs the package tensorboardX.*effnet-flows\[tracking\]"
        ),
    ):
        open_trackers(tiny_config(BOTH), tmp_path, from_step=0)


def test_an_mlflow_that_cannot_be_used_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://somewhere")
    with pytest.raises(
        ConfigError, match=r"train\.trackers=mlflow: its server or folder cannot be used"
    ):
        open_trackers(tiny_config("train.trackers=[mlflow]"), tmp_path, from_step=0)
