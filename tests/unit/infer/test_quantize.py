"""An int8 network: made, measured on the whole validation split, kept or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from PIL import Image

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import CheckpointError, ConfigError, QuantizationRefused
from effnet_core.export import export
from effnet_core.export.onnx_model import write_onnx
from effnet_core.infer import engines, quantize
from effnet_core.infer.engines import selection
from effnet_core.infer.engines.onnxruntime import OnnxRuntimePredictor
from effnet_core.jobs.job import QuantizeJob
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.weights import quantized
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint, save_arrays
from effnet_core.weights.quantized import Quantized
from tests.support.images import draw
from tests.support.weights import make_checkpoint

SIDE = 32
pytestmark = pytest.mark.skipif(
    not engines.computes_int8("x86_64", engines.processor_features()), reason="no VNNI here"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's part runs in this process, and MindSpore is not asked."""

    def run_job(job: QuantizeJob, config: RunConfig, _: Path) -> dict[str, Any]:
        return quantize.quantize_here(job, open_checkpoint(job.checkpoint), config)

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(quantize, "run_job", run_job)
    monkeypatch.setattr(quantize, "leave_at_once", lambda _: None)
    monkeypatch.setattr(export, "require_agreement", mock.Mock())


def labelled(
    folder: Path, variant: str, picture: Callable[[int], Image.Image]
) -> tuple[Checkpoint, Path]:
    """A network of two classes that answers all of its data set's pictures rightly, and that data set.

    The classifier cuts the pictures in two halves along the direction in which their features differ most.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = open_checkpoint(make_checkpoint(folder / "drawn.ckpt", variant, 2))
    write_onnx(drawn, folder / "drawn.onnx", features=True, pixels=True)
    engine = OnnxRuntimePredictor(folder / "drawn.onnx", drawn.sidecar, workers=1, micro_batch=1)
    pictures = [picture(seed) for seed in range(48)]
    features = np.concatenate([engine.forward(np.asarray(one)[None]).features for one in pictures])
    middle = features.mean(axis=0)
    direction = np.linalg.svd(features - middle)[2][0]
    places = (features - middle) @ direction
    scale = 4 / np.abs(places).mean()
    cut = np.median(places)
    weight = np.stack([-scale * direction, scale * direction]).astype(np.float32)
    offset = scale * (middle @ direction + cut)
    arrays = {
        **drawn.load(),
        "classifier.weight": weight,
        "classifier.bias": np.array([offset, -offset], np.float32),
    }
    spec = replace(drawn.sidecar.preprocess, crop_pct=1.0)  # pictures as they are
    sidecar = replace(drawn.sidecar, class_names=("low", "up"), preprocess=spec)
    save_arrays(folder / "model.ckpt", arrays, sidecar)
    for number, (one, place) in enumerate(zip(pictures, places, strict=True)):
        part = "val" if number % 3 == 0 else "train"
        target = folder / "source" / part / ("up" if place > cut else "low")
        target.mkdir(parents=True, exist_ok=True)
        one.save(target / f"{number}.png")
    stage_dataset(str(folder / "source"), folder / "data")
    return open_checkpoint(folder / "model.ckpt"), folder / "data"


def colourful(seed: int) -> Image.Image:
    return draw(SIDE, SIDE, seed=seed, label=seed % 2)


def all_alike(seed: int) -> Image.Image:
    """Grey, with a little noise: their features differ by less than a step of int8."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 3, (SIDE, SIDE, 3))
    return Image.fromarray((127 + noise).astype(np.uint8))


def make(checkpoint: Checkpoint, data: Path, **changes: Any) -> Quantized:
    values = {"max_drop": 0.005, "images": 16, "config": RunConfig(), **changes}
    return quantize.quantize(checkpoint, data, **values)


@pytest.fixture
def good(tmp_path: Path) -> tuple[Checkpoint, Path]:
    return labelled(tmp_path / "good", "efficientnet_tiny_lite", colourful)


def test_a_network_that_is_as_good_is_kept(good: tuple[Checkpoint, Path]) -> None:
    checkpoint, data = good
    found = make(checkpoint, data)
    assert found.top1 == found.fp32_top1 == 1.0
    assert (found.images, found.split, found.calibration_images) == (16, "val", 16)
    again = open_checkpoint(checkpoint.path)
    assert again.sha256 == checkpoint.sha256
    assert Quantized.from_dict(again.sidecar.int8) == found
    path = quantized.path_of(again)
    assert path is not None
    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert [one.name for one in model.graph.input] == ["pixels"]
    assert {one.name for one in model.graph.output} == {"logits", "features"}
    properties = {one.key: one.value for one in model.metadata_props}
    assert properties["checkpoint_sha256"] == checkpoint.sha256
    assert all(checkpoint.path.with_name(name).is_file() for name in quantized.NAMES)


def test_both_engines_label_with_it(good: tuple[Checkpoint, Path]) -> None:
    checkpoint, data = good
    make(checkpoint, data)
    checkpoint = open_checkpoint(checkpoint.path)
    for engine in ("onnxruntime", "openvino"):
        config = load_config(None, ["infer.precision=int8", f"infer.engine={engine}"])
        chosen = selection.select(checkpoint, config, Path("out"), 10, lambda n: [])
        assert str(chosen.choice) == f"{engine} int8"
        assert chosen.choice.file == checkpoint.path.with_name(quantized.ONNX_NAME)
    names = [str(one) for one in selection._choices(checkpoint, RunConfig())]
    assert "onnxruntime int8" in names
    assert "openvino int8" in names


@pytest.mark.costly
def test_openvinos_own_form_gives_the_same_answers(good: tuple[Checkpoint, Path]) -> None:
    import openvino

    checkpoint, data = good
    make(checkpoint, data)
    pixels = np.stack([np.asarray(colourful(seed)) for seed in range(4)])
    logits = [
        openvino.Core().compile_model(str(checkpoint.path.with_name(name)), "CPU")(
            {"pixels": pixels}
        )["logits"]
        for name in (quantized.ONNX_NAME, quantized.IR_NAMES[0])
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


@pytest.mark.costly
def test_a_network_that_loses_too_much_is_refused(tmp_path: Path) -> None:
    checkpoint, data = labelled(tmp_path / "bad", "efficientnet_tiny_lite", all_alike)
    with pytest.raises(QuantizationRefused) as refused:
        make(checkpoint, data)
    text = str(refused.value)
    assert "fp32 100.00% on the same 16 images of val" in text
    assert "allowed is 0.5 (--max-drop); it was not kept" in text
    assert open_checkpoint(checkpoint.path).sidecar.int8 == {}
    assert not list(checkpoint.path.parent.glob("model.int8*"))


@pytest.mark.costly
def test_gates_and_silu_keep_what_they_need_in_fp32(tmp_path: Path) -> None:
    checkpoint, data = labelled(tmp_path / "silu", "efficientnet_tiny", colourful)
    found = make(checkpoint, data)
    assert found.drop <= 0.005
    model = onnx.load(checkpoint.path.with_name(quantized.ONNX_NAME))
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}


def test_a_damaged_file_is_refused(good: tuple[Checkpoint, Path]) -> None:
    checkpoint, data = good
    make(checkpoint, data)
    path = checkpoint.path.with_name(quantized.ONNX_NAME)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        quantized.path_of(open_checkpoint(checkpoint.path))


def test_a_copy_with_its_int8_network(good: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    checkpoint, data = good
    out = tmp_path / "copy"
    found = api.quantize(checkpoint.path, data_dir=data, out=out)
    copied = open_checkpoint(out / "model.ckpt")
    assert copied.sha256 == checkpoint.sha256
    assert copied.sidecar.int8 == found.to_dict()
    assert open_checkpoint(checkpoint.path).sidecar.int8 == {}


def test_without_a_data_set_it_says_what_to_do(good: tuple[Checkpoint, Path]) -> None:
    with pytest.raises(ConfigError, match="--data"):
        api.quantize(good[0].path)


def test_processors_without_vnni_are_refused(
    good: tuple[Checkpoint, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "processor_features", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(engines.platform, "machine", lambda: "x86_64")
    with pytest.raises(ConfigError, match="VNNI"):
        make(*good)
    assert engines.computes_int8("aarch64", frozenset())
    assert engines.computes_int8("x86_64", frozenset({"avx_vnni"}))
