"""The tutorial: every command works in the order of the page, and the transcript is of these commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```shell\n(.*?)```", TUTORIAL, flags=re.DOTALL)
PAGE = ROOT / "docs" / "transcript.md"
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


def recorded(page: Path) -> list[str]:
    """The commands of a transcript."""
    return re.findall(r"^\$ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_transcript_is_of_these_commands() -> None:
    assert recorded(PAGE) == COMMANDS


def test_the_transcript_names_neither_a_login_nor_this_machine() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"effnet:[A-Za-z0-9_-]{20,}", text)
    assert "/tmp/" not in text
    assert "/root" not in text


@pytest.mark.parametrize("name", sorted({line.split()[1] for line in COMMANDS}))
def test_its_commands_exist(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["effnet", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for line in COMMANDS:
        if line.split()[1] == name and name != "store":
            for option in re.findall(r"(?<= )--[a-z-]+", line):
                assert option in shown, f"{line}: {option}"


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.mindspore
@pytest.mark.timeout(3600)
def test_every_command_of_the_tutorial_works(tmp_path: Path) -> None:
    page = tmp_path / "transcript.md"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / ".ci" / "transcript.py"), str(page)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert recorded(page) == COMMANDS
