"""The README's commands: the tour is run as it stands, the others must at least exist."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from flows import cli
from tests.support.images import class_folders, draw, encode

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- tour[^>]*-->\n)?```shell\n(.*?)```", README, flags=re.DOTALL)


def commands(*, tour: bool) -> list[str]:
    """Lines of the README's shell blocks, comments taken off."""
    lines = [line for mark, block in BLOCKS if bool(mark) == tour for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def run(line: str, folder: Path, *added: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
    }
    return subprocess.run(
        [*shlex.split(line), *added],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.mindspore
@pytest.mark.parametrize(
    "shorter",
    [
        pytest.param((), id="as written", marks=pytest.mark.slow),
        pytest.param(("-o", "train.budget=0.05 minutes"), id="3 s of training"),
    ],
)
def test_the_tour_works_as_written(shorter: tuple[str, ...], tmp_path: Path) -> None:
    """As written it trains for 20 s, which is decided; all else is the same in both."""
    class_folders(tmp_path / "images", {"cat": 12, "dog": 12}, width=64, height=48)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        (tmp_path / "photos" / f"{index}.png").write_bytes(encode(draw(seed=index, label=index)))
    lines = commands(tour=True)
    assert [line.split()[1] for line in lines] == ["train", "evaluate", "publish", "predict"]
    for line in lines:
        done = run(line, tmp_path, *(shorter if line.split()[1] == "train" else ()))
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert not done.stderr, f"{line} wrote to standard error: {done.stderr}"
    assert (tmp_path / "labels" / "summary.json").exists()
    assert (tmp_path / "store" / "pets" / "production.json").exists()


@pytest.mark.parametrize("line", commands(tour=False))
def test_other_commands_and_their_options_exist(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        targets = re.findall(
            r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
        )
        assert words[1] in targets
        return
    options = [word for word in words if word.startswith("-") and word != "-m"]
    length = 3 if words[0] == "python" or words[1] in ("store", "weights") else 2
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", [*words[:length], "--help"])
    if words[0] == "python":
        sys.argv = sys.argv[2:]
        module = ROOT.joinpath(*words[2].split(".")).with_suffix(".py")
        start = partial(runpy.run_path, str(module), run_name="__main__")
    else:
        start = cli.main
    with pytest.raises(SystemExit) as ended:
        start()
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    for option in options:
        assert option in shown.out, f"{option} is not in the help of {shlex.join(words[:length])}"
