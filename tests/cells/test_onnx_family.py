"""Every variant's ONNX file in onnxruntime, beside the same weights in MindSpore."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import Tensor

from effnet_core.export.onnx_model import write_onnx
from effnet_core.family.variants import VARIANTS, variant
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.load import load_network
from tests.cells.test_peers_golden import imported
from tests.golden import recipe

TOLERANCE = 1e-4
"""Largest difference of a logit, in units of the logits' spread."""
SMALL_PX = 96

FAMILY = [name for name in VARIANTS if not name.startswith("efficientnet_tiny")]
QUICK = ("efficientnet_b0", "efficientnet_lite0", "efficientnet_v2_s")
"""What the ordinary run compares; the others take minutes together (make test-all)."""


@pytest.fixture(autouse=True)
def without_graphs() -> Iterator[None]:
    """A few images do not pay for the compilation of a graph."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_padding_is_in_the_file(padding: str, tmp_path: Path) -> None:
    layout = "timm-tf" if padding == "same" else "timm"
    assert difference("efficientnet_b0", 65, layout=layout, folder=tmp_path) <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILY],
)
def test_every_variant_agrees_at_batch_1_and_7(name: str, tmp_path: Path) -> None:
    assert difference(name, SMALL_PX, layout="timm-tf", folder=tmp_path) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_every_variant_agrees_at_its_own_size(name: str, tmp_path: Path) -> None:
    size = variant(name).image_size
    assert difference(name, size, layout="timm-tf", folder=tmp_path) <= TOLERANCE


def difference(name: str, size: int, *, layout: str, folder: Path) -> float:
    """Of the logits of seven images, computed together and the first alone."""
    checkpoint = checkpoints.open_checkpoint(imported(name, layout, folder))
    sidecar = checkpoint.sidecar
    assert sidecar.padding == ("same" if layout == "timm-tf" else "symmetric")
    at_size = replace(sidecar, preprocess=replace(sidecar.preprocess, image_size=size))
    file = folder / "model.onnx"
    write_onnx(replace(checkpoint, sidecar=at_size), file)
    session = onnxruntime.InferenceSession(str(file))
    network = load_network(checkpoint)
    images = recipe.images(7, size)
    wanted = np.concatenate([network(Tensor(image[None])).asnumpy() for image in images])
    seven, one = (session.run(["logits"], {"images": batch})[0] for batch in (images, images[:1]))
    assert seven.shape == (7, 1000) and one.shape == (1, 1000)
    worst = max(np.abs(seven - wanted).max(), np.abs(one - wanted[:1]).max()) / wanted.std()
    print(f"{name} at {size} px: {worst:.1e} of the spread")
    return float(worst)
