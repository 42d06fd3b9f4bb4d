"""``python -m flows.cli`` is the command itself."""

from __future__ import annotations

import subprocess
import sys


def test_the_module_runs_the_command() -> None:
    command = [sys.executable, "-m", "flows.cli"]
    done = subprocess.run([*command, "copi"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "copi" in done.stderr
