"""Runs in a list, on a leaderboard, side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.config.load import write_config
from effnet_core.config.schema import StorageConfig
from effnet_core.errors import ConfigError, DataError
from effnet_core.jobs.job import TrainJob, write_error, write_job_file
from effnet_core.reports.compare import (
    Comparison,
    leaderboard_of_runs,
    leaderboard_of_store,
    write_comparison,
)
from effnet_core.reports.runs import find_runs, list_runs, open_runs
from effnet_core.results import EvalResult, TrainResult
from effnet_core.results.answers import ANSWERS_NAME, Answers, Origin
from effnet_core.results.confusion import ConfusionCounter
from effnet_core.system.files import append_jsonl, write_json
from tests.support.tiny import tiny_config
from tests.unit.model_store.test_publication import put

NAMES = ["cat", "dog", "owl"]


def made(
    folder: Path, *overrides: str, wrong: int = 0, digest: str = "d", finished: bool = True
) -> Path:
    """The folder of a training run, whose model gets the first ``wrong`` of 30 images wrong."""
    folder.mkdir(parents=True)
    write_config(tiny_config(*overrides), folder)
    write_job_file(TrainJob(Path("/data/pets"), digest), folder)
    for epoch in (1, 2):
        row = {"kind": "train", "step": 3 * epoch, "epoch": epoch, "loss": 2 / epoch}
        append_jsonl(folder / "metrics.jsonl", {**row, "loss_mean": 2 / epoch, "lr": 0.1})
        shown = {"kind": "eval", "step": 3 * epoch, "epoch": epoch, "top1": epoch / 3}
        append_jsonl(folder / "metrics.jsonl", {**shown, "loss": 1 / epoch, "top5": None})
    if not finished:
        return folder
    true = np.repeat(np.arange(3, dtype=np.int32), 10)
    answer = true.copy()
    answer[:wrong] = (true[:wrong] + 1) % 3
    counter = ConfusionCounter(3)
    counter.add(true, answer)
    evaluation = EvalResult(
        30, 30 - wrong, 30, 0.5, counter.total(), NAMES, "val", "c" * 64, digest
    )
    result = TrainResult("m", "c" * 64, 2, 6, 0, 50.0, evaluation, seconds=4.0)
    write_json(folder / "result.json", result.to_dict())
    (folder / "model.ckpt").write_bytes(b"x" * 2_000_000)
    origin = Origin("c" * 64, digest, "val", 32, 3, calibrated=False)
    half = np.full(30, 0.5, np.float32)
    Answers(origin, true, answer[:, None], half[:, None], half).save(folder / ANSWERS_NAME)
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Finished, unfinished, failed and damaged runs, and folders that are none."""
    root = tmp_path / "runs"
    made(root / "a" / "train", wrong=3)
    made(root / "b" / "train", "optim.base_lr=0.5", wrong=9)
    made(root / "c", wrong=0, digest="e")
    made(root / "half", finished=False)
    failed = made(root / "failed", finished=False)
    write_error(failed, DataError("no such images"), rank=0)
    (made(root / "damaged") / "config.yaml").write_text("model: [")
    (root / "other").mkdir()
    return root


def test_every_run_is_listed_whatever_state_it_is_in(shelf: Path) -> None:
    found = {str(run.folder.relative_to(shelf)): run for run in list_runs(shelf)}
    assert {name: run.state for name, run in found.items()} == {
        "a/train": "finished",
        "b/train": "finished",
        "c": "finished",
        "half": "unfinished",
        "failed": "failed",
        "damaged": "unreadable",
    }
    assert found["a/train"].top1 == 0.9 and found["half"].top1 == pytest.approx(2 / 3)
    assert found["failed"].reason == "no such images"
    assert found["damaged"].reason
    assert list(find_runs(shelf / "c")) == [shelf / "c"]
    with pytest.raises(DataError, match="does not exist"):
        list_runs(shelf / "none")


@pytest.mark.costly
def test_the_commands(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    monkeypatch.setenv("COLUMNS", "200")
    listed = json.loads(run("runs", "--json"))
    assert len(listed) == 6
    assert "90.00%" in run("runs") and "failed: no such images" in run("runs", "runs")
    assert "no training run lies below" in run("runs", shelf / "other")
    board = json.loads(run("leaderboard", "--json"))
    assert [place["name"] for place in board] == ["a/train", "b/train", "c"]
    lines = run("leaderboard").splitlines()
    assert lines[0] == "30 images of val, data set d"
    out = tmp_path / "page.html"
    text = run("compare", "runs/a/train", "runs/b/train", "--output", out)
    assert "optim.base_lr" in text and "0.5" in text
    assert "-20.00% (95 % interval" in text and "0 images won and 6 lost of 30" in text
    assert out.exists()
    refused = CliRunner().invoke(app, ["compare", "runs/half", "runs/c"])
    assert refused.exit_code != 0 and "is not finished" in refused.output


@pytest.mark.costly
def test_side_by_side(shelf: Path, tmp_path: Path) -> None:
    comparison = Comparison(open_runs([shelf / "a/train", shelf / "b/train"]))
    assert [run.name for run in comparison.runs] == ["a/train", "b/train"]
    assert [key for key, _ in comparison.settings()] == ["optim.base_lr"]
    assert comparison.classes()[0] == ("cat", 10, [pytest.approx(0.7), pytest.approx(0.1)])
    figures: dict[str, Any] = dict(comparison.figures())
    assert figures["top-1"] == ["90.00%", "70.00%"] and figures["file"] == ["2.0 MB"] * 2
    page = write_comparison(tmp_path / "page.html", comparison).read_text()
    assert page.count("<picture>") == 3 and "optim.base_lr" in page and "0 images won" in page

    apart = Comparison(open_runs([shelf / "a/train", shelf / "c"]))
    assert not apart.same_images and apart.classes() == [] and apart.pairs() == [("c", None)]
    page = write_comparison(tmp_path / "other.html", apart).read_text()
    assert "accuracies are not comparable" in page


@pytest.mark.parametrize("count", [1, 9])
def test_how_many_may_be_compared(shelf: Path, count: int) -> None:
    (run,) = open_runs([shelf / "c"])
    with pytest.raises(ConfigError, match="give 2 to 8"):
        Comparison([replace(run) for _ in range(count)])


def test_what_is_no_run(shelf: Path) -> None:
    for name, words in (("other", "holds no training run"), ("half", "is not finished")):
        with pytest.raises(DataError, match=words):
            open_runs([shelf / name])


def test_the_leaderboard_ranks_what_was_measured_on_the_same_images(
    shelf: Path, tmp_path: Path
) -> None:
    assert [place.name for place in leaderboard_of_runs(shelf)] == ["a/train", "b/train", "c"]
    storage = StorageConfig(root=str(tmp_path / "store"), name="animals")
    put(tmp_path, storage, "v1", correct=80)
    put(tmp_path, storage, "v2", correct=85)
    put(tmp_path, storage, "v3", correct=99, changes={"data_digest": "e" * 64})
    found = leaderboard_of_store(storage)
    assert [(p.name, p.production) for p in found] == [("v2", True), ("v1", False), ("v3", False)]
