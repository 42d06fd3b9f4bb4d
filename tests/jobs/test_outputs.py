"""What commands write: to a terminal that obeys, to an output that is closed, or that knows ASCII alone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from effnet_core.errors import EXIT_UNREAD
from tests.support.images import class_folders, source_with_splits
from tests.unit.test_hostile_words import TITLE

EFFNET = [sys.executable, "-m", "effnet_core"]


def on_a_terminal(*arguments: str) -> bytes:
    """What a command writes to a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*EFFNET, *arguments])
    said = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        said += chunk
    os.waitpid(pid, 0)
    os.close(terminal)
    return said


def test_a_class_does_not_set_the_title_of_the_terminal(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", {"cat": 4, f"{TITLE}dog": 4}, width=20, height=20)
    (source / f"{TITLE}dog" / "bad.jpg").write_text("")
    empty = class_folders(tmp_path / "empty", {"cat": 4}, width=20, height=20)
    (empty / f"{TITLE}dog").mkdir()
    for folder in (source, empty, Path(f"/nonexistent{TITLE}")):
        said = on_a_terminal("stage", str(folder), "--out", str(tmp_path / "out"))
        assert b"\x1b]0;" not in said


@pytest.mark.parametrize("command", [["settings"], ["settings", "--markdown"], ["weights", "list"]])
def test_nobody_reads_the_output(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*EFFNET, *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (EXIT_UNREAD, "")


@pytest.mark.parametrize("close", ["1>&-", "2>&-", "1>&- 2>&-"])
def test_a_closed_output(close: str, tmp_path: Path) -> None:
    source = source_with_splits(tmp_path / "source", train=2, val=1)
    command = f"exec {' '.join(EFFNET)} stage {source} --out {tmp_path / 'out'} {close}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "classes.json").exists()


def test_an_output_of_ascii_only(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "Bücher 猫", {"Käse": 4, "dog": 4}, width=20, height=20)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*EFFNET, "stage", str(source), "--out", str(tmp_path / "ü")],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"/\\xfc/data_card.html" in done.stdout
