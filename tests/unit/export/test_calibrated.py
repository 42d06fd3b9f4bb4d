"""What is exported gives the calibrated probabilities: its logits are divided by the temperature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors import safe_open

from effnet_core.export.export import export
from effnet_core.export.onnx_model import write_onnx
from effnet_core.weights.checkpoint import calibrated, open_checkpoint
from effnet_core.weights.importing import convert
from tests.support.weights import make_checkpoint

TEMPERATURE = 2.5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same weights without a temperature and with one."""
    folder = tmp_path_factory.mktemp("models")
    options = {"image_size": 32}
    return [
        make_checkpoint(folder / "plain.ckpt", **options),
        make_checkpoint(folder / "calibrated.ckpt", temperature=TEMPERATURE, **options),
    ]


@pytest.mark.parametrize("pixels", [False, True])
def test_onnx(models: list[Path], tmp_path: Path, pixels: bool) -> None:
    found = []
    for model in models:
        write_onnx(open_checkpoint(model), tmp_path / "m.onnx", features=True, pixels=pixels)
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        rng = np.random.default_rng(0)
        image = (
            rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
            if pixels
            else rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
        )
        logits, features = session.run(
            ["logits", "features"], {session.get_inputs()[0].name: image}
        )
        found.append((logits, features, session.get_modelmeta().custom_metadata_map["temperature"]))
    (plain, same, one), (divided, features, said) = found
    assert divided == pytest.approx(plain / TEMPERATURE, rel=1e-4, abs=1e-5)
    assert np.array_equal(features, same)
    assert (one, said) == ("1", "2.5")


def test_safetensors_and_other_layouts(models: list[Path], tmp_path: Path) -> None:
    plain, model = (open_checkpoint(path) for path in models)
    weights = plain.load()
    export(model, tmp_path / "m.safetensors", format="safetensors")
    with safe_open(tmp_path / "m.safetensors", "np") as stream:
        assert json.loads(stream.metadata()["effnet"])["temperature"] == 1.0
        for name in stream.keys():  # noqa: SIM118
            factor = TEMPERATURE if name.startswith("classifier") else 1
            assert stream.get_tensor(name) * factor == pytest.approx(weights[name], rel=1e-5), name
    convert(model, tmp_path / "t.safetensors", to="torchvision")
    with safe_open(tmp_path / "t.safetensors", "np") as stream:
        head = stream.get_tensor("classifier.1.weight")
    assert head * TEMPERATURE == pytest.approx(weights["classifier.weight"], rel=1e-5)
    assert calibrated(weights, 1.0).keys() == weights.keys()
