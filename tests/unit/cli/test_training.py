"""What ``effnet train`` says at its end, and what it refuses before it begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.cli.training import closing_table, next_commands, worst_classes
from effnet_core.results import EvalResult, TrainResult
from effnet_core.results.confusion import Confusion

FOUND = EvalResult(
    seen=12,
    correct1=8,
    correct5=12,
    loss=0.5,
    confusion=Confusion.from_dense([[4, 0, 0], [1, 3, 0], [1, 2, 1]]),
    class_names=["cat", "dog", "owl"],
    split="val",
)
RESULT = TrainResult(
    checkpoint="runs/x/model.ckpt",
    sha256="y",
    epochs=2,
    steps=6,
    resumed_from_step=0,
    images_per_s=20.0,
    evaluation=FOUND,
    probe_top1=0.5,
)


def shown(result: TrainResult) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(closing_table(result, Path("runs/x/report.html")))
    return captured.get()


def test_the_table_names_probe_model_and_worst_classes() -> None:
    text = shown(RESULT)
    assert "top-1 50.00%" in text
    assert "top-1 66.67%, loss 0.5000 on 12 images of split val" in text
    assert "owl (1 of 4 right), dog (3 of 4 right)" in text
    assert "runs/x/report.html" in text
    assert "6 steps, 20.0 images/s" in text
    assert "steps" not in shown(replace(RESULT, steps=0))


def test_classes_without_a_mistake_are_not_among_the_worst() -> None:
    assert "cat" not in worst_classes(RESULT)
    perfect = replace(FOUND, correct1=2, seen=2, confusion=Confusion.from_dense([[1, 0], [0, 1]]))
    assert worst_classes(replace(RESULT, evaluation=perfect)) == ""


def test_what_to_do_next_names_the_run() -> None:
    assert all("runs/x" in line for line in next_commands(Path("runs/x")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "effnet train needs pictures"),
        (["a", "--data", "b"], "effnet train has pictures twice: a and --data b; name one"),
        (["a", "--recipe", "digits", "--minutes", "3"], "--minutes belong to the recipe auto"),
        (["a", "--quality", "superb"], "auto.quality='superb' is not allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["train", *arguments])
    assert done.exit_code == 2
    assert message in done.output


def test_pictures_that_are_not_there_leave_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "photos"])
    assert done.exit_code == 1
    assert "data folder photos does not exist" in done.output
    assert list(tmp_path.iterdir()) == []
