"""Class activation maps: they add up to the logit, and pages and folders show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from effnet_core.export.onnx_model import write_onnx
from effnet_core.infer.readers import FolderReader
from effnet_core.quality.heat import Explainer, as_address, explain_pictures, overlay
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint
from tests.support.images import draw, encode
from tests.support.weights import make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("model") / "m.ckpt"
    return open_checkpoint(make_checkpoint(path, image_size=64, temperature=1.7))


def test_the_mean_of_a_map_and_the_bias_are_the_logit(model: Checkpoint, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    write_onnx(model, tmp_path / "m.onnx", pixels=True)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (logits,) = session.run(["logits"], {"pixels": pixels})
    bias = model.load()["classifier.bias"] / 1.7
    explainer = Explainer.of(model)
    for class_id in range(3):
        maps = explainer.maps(pixels, [class_id] * 3)
        assert maps.shape[0] == 3 and maps.shape[1] == maps.shape[2] > 1
        assert maps.mean(axis=(1, 2)) + bias[class_id] == pytest.approx(
            logits[:, class_id], rel=1e-3, abs=1e-4
        )


def test_the_picture_is_brightest_where_most_spoke_for_the_class() -> None:
    grey = np.full((60, 60, 3), 100, np.uint8)
    heat = np.full((3, 3), -1.0, np.float32)
    heat[0, 2] = 5.0
    light = np.asarray(overlay(grey, heat), np.float64).sum(axis=2)
    row, column = np.unravel_index(light.argmax(), light.shape)
    assert row < 20 and column >= 40
    dark = np.asarray(overlay(grey, -np.ones((3, 3), np.float32)))
    assert len(np.unique(dark.reshape(-1, 3), axis=0)) == 1
    assert as_address(overlay(grey, heat)).startswith("data:image/webp;base64,")


def test_pictures_that_cannot_be_read_are_left_out(model: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(draw()))
    (tmp_path / "b.png").write_bytes(b"no picture")
    wanted = [("a.png", 0), ("b.png", 1), ("c.png", 2)]
    found = explain_pictures(model, FolderReader(tmp_path), wanted)
    assert list(found) == ["a.png"] and isinstance(found["a.png"], Image.Image)
    assert found["a.png"].size == (64, 64)
    assert explain_pictures(model, FolderReader(tmp_path), []) == {}
