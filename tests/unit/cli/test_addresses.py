"""An address where a folder is needed is refused in one sentence, and no folder ``s3:`` appears."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_core.cli.app import app
from tests.support.images import class_folders
from tests.support.weights import make_checkpoint

ADDRESS = "s3://bucket/prefix"
COMMANDS = {
    "stage": ["stage", "source", "--out", ADDRESS],
    "train": ["train", "--data", "data", "--run-dir", ADDRESS],
    "export": ["export", "--weights", "a.ckpt", "--out", f"{ADDRESS}/a.onnx"],
    "bench": ["bench", "--variant", "efficientnet_tiny", "--out", ADDRESS],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.costly
def test_an_address_is_refused_where_a_folder_is_needed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "source", {"cat": 2, "dog": 2})
    make_checkpoint(tmp_path / "a.ckpt")
    runner = CliRunner()
    if command == "train":
        assert runner.invoke(app, ["stage", "source", "--out", "data"]).exit_code == 0
    result = runner.invoke(app, COMMANDS[command])
    assert result.exit_code == 2
    assert "must be a folder of this machine" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "s3:").exists()


def test_labels_go_to_a_bucket_by_a_usable_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "source", {"cat": 2})
    make_checkpoint(tmp_path / "a.ckpt")
    command = ["predict", "source", "--weights", "a.ckpt", "--output", "s3://-/labels"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "has no usable bucket" in " ".join(result.output.split())
    assert not (tmp_path / "s3:").exists()
