"""The supervisor, with real processes: nothing outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_core.jobs import supervise

# Writes its process id, starts a child in a session of its own that does the same, and sleeps.
FAMILY = """
import os, subprocess, sys, time
name = sys.argv[1]
open(f"{name}-{os.getpid()}", "w").close()
if sys.argv[2:]:
    subprocess.Popen([sys.executable, __file__, name], start_new_session=True)
time.sleep(float(sys.argv[2]) if sys.argv[2:] else 600)
"""


@pytest.fixture
def family(tmp_path: Path) -> Path:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    return script


def supervised(command: list[str], *, grace: float = 5) -> subprocess.Popen[bytes]:
    argv = [sys.executable, supervise.__file__, "--grace", str(grace), "--", *command]
    return subprocess.Popen(argv, stdin=subprocess.PIPE)


def members(family: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in family.parent.glob("member-*")]


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def wait_for(condition: Callable[[], object], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def start_family(family: Path, *, sleeps: float = 600) -> subprocess.Popen[bytes]:
    name = str(family.parent / "member")
    process = supervised([sys.executable, str(family), name, str(sleeps)])
    wait_for(lambda: len(members(family)) == 2)
    return process


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(0)", 0), ("raise SystemExit(7)", 7)]
)
def test_exit_code_is_the_commands(code: str, expected: int) -> None:
    with supervised([sys.executable, "-c", code]) as process:
        assert process.wait(20) == expected


def test_death_by_signal_is_128_plus_n() -> None:
    with supervised([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) as process:
        assert process.wait(20) == 128 + signal.SIGKILL


def test_an_orphan_in_its_own_session_ends_with_the_command(family: Path) -> None:
    with start_family(family, sleeps=0.5) as process:
        assert process.wait(20) == 0
        assert alive(members(family)) == []


def test_a_parent_that_dies_takes_all_along(family: Path) -> None:
    with start_family(family) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == supervise.EXIT_STOPPED
        assert alive(members(family)) == []


def test_sigterm_reaches_all(family: Path) -> None:
    with start_family(family) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == supervise.EXIT_STOPPED
        assert alive(members(family)) == []


def test_who_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open(sys.argv[1], 'w').close(); time.sleep(600)"
    )
    with supervised([sys.executable, "-c", code, str(ready)], grace=0.5) as process:
        wait_for(ready.exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == supervise.EXIT_STOPPED


def test_who_saves_gets_the_time_to(tmp_path: Path) -> None:
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    open(sys.argv[2], 'w').close()\n"
        "    raise SystemExit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open(sys.argv[1], 'w').close()\n"
        "time.sleep(600)\n"
    )
    with supervised([sys.executable, "-c", code, str(ready), str(saved)], grace=10) as process:
        wait_for(ready.exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == supervise.EXIT_STOPPED
        assert saved.exists()


def test_descendants_sees_grandchildren(family: Path) -> None:
    with start_family(family) as process:
        below = supervise.descendants(process.pid)
        assert set(members(family)) <= set(below)
        assert os.getpid() not in below
        process.send_signal(signal.SIGTERM)
