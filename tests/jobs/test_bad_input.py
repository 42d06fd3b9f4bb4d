"""Mistakes that people make: each gets one clear sentence, the right exit code and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from effnet_core.mindvision import __main__ as mindvision
from effnet_core.results import TrainResult
from flows.cli import app
from tests.support.images import class_folders, draw, encode
from tests.support.tiny import TINY

OneRank = tuple[Path, TrainResult]


def effnet(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str) -> str:
    """The one sentence that a refused command prints."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    line = result.stderr.strip()
    assert line.startswith("effnet: ")
    assert "\n" not in line, "one sentence, one line"
    for word in words:
        assert word in line, f"{word!r} not in {line!r}"
    return line


def tiny(*settings: str) -> list[str]:
    return [part for setting in (*TINY, *settings) for part in ("-o", setting)]


# --- data folders -----------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    refused(effnet("stage", tmp_path / "nope", "--out", tmp_path / "data"), 1, "does not exist")


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    result = effnet("stage", tmp_path / "images", "--out", tmp_path / "data")
    refused(result, 1, "no class folders", "CLASS/image files")


def test_class_folder_without_images(tmp_path: Path) -> None:
    class_folders(tmp_path / "images", {"cat": 3, "dog": 3})
    (tmp_path / "images" / "owl").mkdir()
    result = effnet("stage", tmp_path / "images", "--out", tmp_path / "data")
    assert result.exit_code == 0
    assert "2 classes" in result.output


def damaged_folder(root: Path, *, good: int) -> Path:
    class_folders(root, {"cat": good, "dog": good})
    jpeg = encode(draw(seed=1), "JPEG")
    (root / "cat" / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (root / "cat" / "header.jpg").write_bytes(jpeg[:200])
    (root / "dog" / "empty.jpg").write_bytes(b"")
    (root / "dog" / "text.jpg").write_text("this is no image")
    return root


def test_bad_files_among_many_are_set_aside_and_listed(tmp_path: Path) -> None:
    source = damaged_folder(tmp_path / "images", good=100)
    result = effnet("stage", source, "--out", tmp_path / "data")
    assert result.exit_code == 0
    assert "4 files set aside" in result.output
    rows = [
        json.loads(line) for line in (tmp_path / "data/rejected.jsonl").read_text().splitlines()
    ]
    reasons = {Path(row["path"]).name: row["reason"] for row in rows}
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["text.jpg"] == "not an image"
    assert reasons["cut.jpg"] == "truncated"
    assert "header.jpg" in reasons


def test_too_many_bad_files_refuse_with_the_share(tmp_path: Path) -> None:
    source = damaged_folder(tmp_path / "images", good=4)
    result = effnet("stage", source, "--out", tmp_path / "data")
    refused(result, 1, "4 of 12 files (33.3%)", "--max-rejected-share")


def test_pictures_without_a_class(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    class_folders(tmp_path / "photos", {"cat": 3})
    result = effnet("train", tmp_path / "photos", "--run-dir", tmp_path / "run", *tiny())
    refused(result, 1, "only one class, 'cat'", "at least two class folders")
    refused(effnet("train"), 2, "needs pictures")


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epoch=3", ["train.epoch", "did you mean 'train.epochs'"]),
        ("trian.epochs=3", ["trian", "did you mean 'train'"]),
        ("model.variant=eficientnet_b3", ["eficientnet_b3", "did you mean 'efficientnet_b3'"]),
        ("train.epochs=many", ["train.epochs", "'many'", "valid integer"]),
        ("data.global_batch_size=0", ["data.global_batch_size=0", "greater than or equal to 1"]),
        ("optim.name=adam", ["optim.name='adam'", "'rmsprop', 'sgd' or 'adamw'"]),
        ("train.epochs", ["section.key=value"]),
        ("schedule.name=cosin", ["schedule.name='cosin'", "'cosine'", "'piecewise_constant'"]),
        ("schedule.warmup_epochs=9", ["warmup_epochs=9", "epochs=2"]),
        ("schedule.rates=[0.1]", ["schedule.milestones and schedule.rates", "not to cosine"]),
        ("train.budget=3 fortnights", ["train.budget", "epochs, steps, images, minutes"]),
    ],
)
def test_settings(setting: str, words: list[str], data_dir: Path, tmp_path: Path) -> None:
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *tiny(setting))
    refused(run, 2, *words)
    assert not (tmp_path / "run").exists()


def test_milestones_of_another_number_than_rates(data_dir: Path, tmp_path: Path) -> None:
    pieces = ("schedule.name=piecewise_constant", "schedule.milestones=[10,20]")
    settings = tiny(*pieces, "schedule.rates=[0.1]")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *settings)
    refused(run, 2, "schedule.milestones has 2 entries and schedule.rates 1", "as many of each")


MINDVISION = {
    "lr_decay_mode=cosin_decay_lr": "did you mean 'cosine_decay_lr'?",
    "learning_rates=0.1": "schedule.milestones has 0 entries and schedule.rates 1",
    "warmup_epochs=300": "warmup_epochs=300 does not end before the run does (epochs=300)",
    "batch_size=0": "batch_size=0 must be at least 1",
    "num_classes=1": "num_classes=1 must be at least 2",
    "epoch_size=0": "train.epochs=0 is not allowed",
}


@pytest.mark.parametrize("setting", MINDVISION)
def test_mindvisions_settings(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, _, value = setting.partition("=")
    given = ["train", "--data_url", "images", "--device_target", "CPU", f"--{name}", value]
    if name == "learning_rates":
        given += ["--lr_decay_mode", "piecewise_constant_lr"]
    with pytest.raises(SystemExit) as ended:
        mindvision.main(given)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert MINDVISION[setting] in line


def test_unknown_recipe(data_dir: Path, tmp_path: Path) -> None:
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", "-r", "digit")
    refused(run, 2, "recipe 'digit' is unknown", "did you mean 'digits'")


def test_batch_that_does_not_divide(data_dir: Path, tmp_path: Path) -> None:
    settings = tiny("data.global_batch_size=7", "runtime.world_size=2")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *settings)
    refused(run, 2, "global_batch_size=7", "world_size=2", "6 or 8")


@pytest.fixture
def cores() -> Iterator[int]:
    """How many cores this process and its children have: two, or the only one of this machine."""
    all_cores = os.sched_getaffinity(0)
    few = sorted(all_cores)[:2]
    os.sched_setaffinity(0, few)
    yield len(few)
    os.sched_setaffinity(0, all_cores)


@pytest.mark.slow
@pytest.mark.mindspore
def test_more_processes_than_cores_are_told_and_train_all_the_same(
    cores: int, data_dir: Path, tmp_path: Path
) -> None:
    """Not wrong, only slower."""
    settings = tiny(f"runtime.world_size={cores + 1}", f"data.global_batch_size={4 * (cores + 1)}")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *settings)
    assert run.exit_code == 0, run.output
    told = f"runtime.world_size={cores + 1} processes share {cores} cores; {cores} would be faster"
    assert told in run.output
    assert json.loads((tmp_path / "run" / "result.json").read_text())["world_size"] == cores + 1


def test_unknown_option_is_wrong_usage() -> None:
    assert effnet("train", "--dta", "x").exit_code == 2


def test_more_processes_than_images(data_dir: Path, one_rank: OneRank, tmp_path: Path) -> None:
    settings = tiny("data.global_batch_size=25", "runtime.world_size=25")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *settings)
    refused(run, 2, "world_size=25", "24 training images")
    evaluation = effnet("evaluate", "--weights", one_rank[0], "--data", data_dir, "-n", "13")
    refused(evaluation, 2, "world_size=13", "12 images")


def test_batch_larger_than_the_data(data_dir: Path, tmp_path: Path) -> None:
    settings = tiny("data.global_batch_size=32")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *settings)
    refused(run, 1, "global_batch_size=32", "24 images")


def test_a_rate_of_a_billion_is_stopped_and_named(data_dir: Path, tmp_path: Path) -> None:
    settings = tiny("optim.base_lr=1e9", "schedule.warmup_epochs=0", "train.epochs=20")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *settings)
    line = refused(run, 1, "the loss became", "checked in steps", "lower optim.base_lr")
    assert "with a learning rate of 3" in line  # 1e9 * 8 / 256, falling


def test_a_shared_folder_that_is_gone_is_named(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mount").write_text("no folder any more")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "mount" / "run", *tiny())
    refused(run, 1, "run folder", "cannot be written to")
    gone = effnet("train", "--data", tmp_path / "mount" / "d", "--run-dir", tmp_path / "r", *tiny())
    refused(gone, 1, "data folder", "does not exist")


def test_port_in_use(data_dir: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = tiny("runtime.world_size=2", f"runtime.master_port={port}")
        run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "run", *settings)
        refused(run, 2, f"runtime.master_port={port} is in use")
        board = effnet("dashboard", "--port", port)
        refused(board, 2, f"port {port} is in use")


# --- folders ----------------------------------------------------------------------------------


def test_no_write_permission(data_dir: Path, tmp_path: Path) -> None:
    """A file where a folder should be fails for everybody; rights fail for all but root."""
    (tmp_path / "file").write_text("")
    run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "file" / "run", *tiny())
    refused(run, 1, "cannot be written to", "not a directory")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        run = effnet("train", "--data", data_dir, "--run-dir", tmp_path / "locked" / "run", *tiny())
        refused(run, 1, "cannot be written to", "permission denied")


@pytest.mark.mindspore
def test_a_folder_that_holds_another_run(data_dir: Path, one_rank: OneRank) -> None:
    run = effnet("train", "--data", data_dir, "--run-dir", one_rank[0], *tiny("train.seed=5"))
    refused(run, 2, "holds another run", "train.seed")


def test_a_folder_with_foreign_files(data_dir: Path, source_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    refused(effnet("train", "--data", data_dir, "--run-dir", tmp_path, *tiny()), 2, "is not empty")
    refused(effnet("stage", source_dir, "--out", tmp_path), 2, "not ours")
    assert (tmp_path / "thesis.doc").read_text() == "mine"


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def copy_of_run(one_rank: OneRank, tmp_path: Path) -> Path:
    return Path(shutil.copytree(one_rank[0], tmp_path / "copy"))


@pytest.mark.mindspore
def test_a_truncated_checkpoint(copy_of_run: Path, data_dir: Path) -> None:
    model = copy_of_run / "model.ckpt"
    model.write_bytes(model.read_bytes()[:1000])
    result = effnet("evaluate", "--weights", model, "--data", data_dir)
    refused(result, 1, "is damaged", "1,000 bytes")


@pytest.mark.mindspore
def test_a_checkpoint_with_a_flipped_byte(copy_of_run: Path, data_dir: Path) -> None:
    model = copy_of_run / "model.ckpt"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    refused(effnet("evaluate", "--weights", model, "--data", data_dir), 1, "SHA-256")


@pytest.mark.mindspore
def test_a_checkpoint_of_another_variant(copy_of_run: Path, data_dir: Path, tmp_path: Path) -> None:
    settings = ["-o", "model.variant=efficientnet_b0", "-o", "data.image_size=32"]
    run = effnet(
        *("train", "--data", data_dir, "--run-dir", tmp_path / "run"),
        *("--weights", copy_of_run / "model.ckpt", *settings),
    )
    refused(run, 1, "variant efficientnet_tiny", "efficientnet_b0")


@pytest.mark.mindspore
def test_a_checkpoint_of_other_classes(copy_of_run: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    class_folders(source / "train", {"ant": 4, "bee": 4})
    class_folders(source / "val", {"ant": 2, "bee": 2})
    assert effnet("stage", source, "--out", tmp_path / "data").exit_code == 0
    result = effnet("evaluate", "--weights", copy_of_run, "--data", tmp_path / "data")
    refused(result, 1, "no class 'ant'", "--classes")
    run = effnet(
        *("train", "--data", tmp_path / "data", "--run-dir", tmp_path / "run"),
        *("--weights", copy_of_run / "model.ckpt", *tiny("auto.enabled=false")),
    )
    refused(run, 1, "3 classes", "the data set has 2")


@pytest.mark.mindspore
def test_a_checkpoint_without_sidecar(copy_of_run: Path, data_dir: Path) -> None:
    (copy_of_run / "model.json").unlink()
    result = effnet("evaluate", "--weights", copy_of_run / "model.ckpt", "--data", data_dir)
    refused(result, 1, "no sidecar model.json")


def test_an_unfinished_run(data_dir: Path, tmp_path: Path) -> None:
    result = effnet("evaluate", "--weights", tmp_path, "--data", data_dir)
    refused(result, 1, "holds no finished model")
    refused(effnet("publish", tmp_path), 1, "holds no training run")


# --- prediction -------------------------------------------------------------------------------


@pytest.mark.mindspore
def test_a_folder_is_labelled_and_the_bad_files_are_listed(
    one_rank: OneRank, tmp_path: Path
) -> None:
    inbox = damaged_folder(tmp_path / "inbox", good=20)
    before = sorted(str(path) for path in inbox.rglob("*"))
    result = effnet("predict", inbox, "--weights", one_rank[0], "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["images"], summary["labelled"], summary["rejected"]) == (44, 40, 4)
    assert len((tmp_path / "out" / "errors.jsonl").read_text().splitlines()) == 4
    assert sorted(str(path) for path in inbox.rglob("*")) == before


@pytest.mark.mindspore
def test_too_many_bad_files_fail_after_the_rest_is_labelled(
    one_rank: OneRank, tmp_path: Path
) -> None:
    inbox = damaged_folder(tmp_path / "inbox", good=2)
    result = effnet("predict", inbox, "--weights", one_rank[0], "--output", tmp_path / "out")
    refused(result, 1, "4 of 8 files (50.0%)", "infer.max_error_share=0.1", "errors.jsonl")


def test_missing_input(one_rank: OneRank, tmp_path: Path) -> None:
    out = ["--weights", one_rank[0], "--output", tmp_path / "out"]
    refused(effnet("predict", tmp_path / "nope", *out), 1, "does not exist")


def test_output_inside_the_input(one_rank: OneRank, source_dir: Path) -> None:
    out = ["--weights", one_rank[0], "--output", source_dir / "out"]
    refused(effnet("predict", source_dir, *out), 2, "lies inside the input folder")
    assert not (source_dir / "out").exists()
