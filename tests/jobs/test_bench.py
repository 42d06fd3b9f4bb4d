"""``effnet bench`` as people run it; what it does with what it finds: tests/unit/infer/test_bench.py."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_core.cli.app import app


def test_the_command(tmp_path: Path) -> None:
    arguments = ["bench", "--variant", "efficientnet_tiny", "--engine", "onnxruntime"]
    arguments += ["--seconds", "1", "-o", "infer.engine_threads=1", "-o", "infer.batch_size=4"]
    done = CliRunner().invoke(app, [*arguments, "--price", "2", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "out" / "bench.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["images_per_s"]) > 0
    assert float(row["memory_mb"]) > 50
    assert float(row["ms"]) > 0
    assert float(row["cost"]) == pytest.approx(2 * float(row["hours"]), abs=1e-3)
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")
