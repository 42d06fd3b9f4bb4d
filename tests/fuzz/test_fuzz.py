"""Thousands of hostile files from a seed; the counts are printed (``pytest -s``, ``make fuzz``)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.flows.service import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("seed", [1, 2])
def test_no_hostile_file_breaks_its_reader(seed: int) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--count", "3000", "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
