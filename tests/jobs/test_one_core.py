"""What exact resumption rests on: a rank with one core does the same arithmetic in every launch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mindspore


def test_kernels_do_not_try_pieces_where_there_is_one_core() -> None:
    """Which number of pieces wins is left to the clock, and other pieces round other last bits."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("one_core_script.py"))],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("outcomes 1 1 "), done.stdout
