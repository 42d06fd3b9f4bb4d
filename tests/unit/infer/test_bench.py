"""How fast a machine labels: what is measured, and what comes of it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.cli.tables import bench_table
from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.export.onnx_model import build_model
from effnet_core.family.variants import VARIANTS
from effnet_core.infer import bench
from effnet_core.infer.bench import Case, Speed
from effnet_core.infer.engines import onnxruntime
from effnet_core.reports.bench import write_csv

TINY = "efficientnet_tiny"
ONE = Case("efficientnet_b0", "onnxruntime", "fp32")


def test_what_is_measured_is_what_the_machine_has() -> None:
    engines = [(case.engine, case.precision) for case in bench.cases([TINY], [], [], RunConfig())]
    assert engines == [
        ("onnxruntime", "fp32"),
        *(("openvino", precision) for precision in ("fp32", "fp16", "bf16")),
    ]
    assert len(bench.cases([], [], [], RunConfig())) == 4 * len(bench.VARIANTS)
    only = bench.cases([TINY], ["openvino"], ["bf16"], RunConfig())
    assert only == [Case(TINY, "openvino", "bf16")]
    gpu = load_config(None, ["runtime.device=GPU", "runtime.world_size=1"])
    with mock.patch.object(onnxruntime, "built_for", lambda: [onnxruntime.CUDA]):
        assert [case.precision for case in bench.cases([TINY], [], [], gpu)] == ["fp32", "fp16"]
    assert bench.cases([TINY], [], [], gpu) == [Case(TINY, "mindspore", "fp32")]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match="efficientnet_c0"):
        bench.cases(["efficientnet_c0"], [], [], RunConfig())
    with pytest.raises(ConfigError, match=r"infer\.precision=bf16 needs infer\.engine=openvino"):
        bench.cases([TINY], ["onnxruntime"], ["bf16"], RunConfig())
    with pytest.raises(ConfigError, match="effnet quantize"):
        bench.cases([TINY], ["onnxruntime"], ["int8"], RunConfig())


@pytest.mark.parametrize("name", [TINY, "efficientnet_lite0", "efficientnet_v2_s"])
@pytest.mark.costly
def test_drawn_weights_are_a_whole_network(name: str, tmp_path: Path) -> None:
    checkpoint = bench.draw_checkpoint(VARIANTS[name], tmp_path)
    assert bench.draw_checkpoint(VARIANTS[name], tmp_path) == checkpoint
    model = build_model(checkpoint.load(), checkpoint.sidecar)
    assert model.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 1000


def test_the_estimate(tmp_path: Path) -> None:
    speeds = [Speed(ONE, 100.0, 12.5, 300.0), Speed(ONE, problem="no bf16 here")]
    assert speeds[0].seconds_for(720_000) == 7200
    assert speeds[1].seconds_for(1) == math.inf
    write_csv(tmp_path / "a.csv", speeds, count=720_000, price=0.5)
    with (tmp_path / "a.csv").open(newline="") as stream:
        good, bad = csv.DictReader(stream)
    assert (good["images_per_s"], good["hours"], good["cost"]) == ("100.0", "2.0000", "1.0000")
    assert (bad["images_per_s"], bad["cost"], bad["problem"]) == ("", "", "no bf16 here")
    console = Console(width=100, record=True)
    console.print(bench_table(speeds, count=720_000, price=0.5))
    text = console.export_text()
    assert "720,000 images take" in text
    assert "2 h 00 min" in text
    assert "1.00" in text


@pytest.mark.costly
def test_a_measurement_that_ends_badly_leaves_the_others(tmp_path: Path) -> None:
    told: list[Speed] = []
    nonsense = Case("efficientnet_none", "onnxruntime", "fp32")
    results = bench.measure([nonsense], RunConfig(), seconds=9, tell=told.append)
    assert results == told
    assert results[0].images_per_s == 0
    assert "efficientnet_none" in results[0].problem
    late = bench.measure([ONE], RunConfig(), seconds=0, tell=told.append)
    assert late[0].problem == "no time was left; give more --seconds"


def test_pictures_that_are_none_are_reported(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--images", str(tmp_path / "none")])
    assert done.exit_code == 2
