"""Squares that networks see: exact ones as evaluation's, fast ones next to them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from effnet_core.config.schema import RunConfig
from effnet_core.data.preprocess import FAST_MARGIN, PreprocessSpec, decode_square, resize_and_crop
from tests.support.images import encode

SPEC = PreprocessSpec.from_config(RunConfig())
DETAIL_PX = 24
"""How far apart the values of the smooth noise are."""


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise that is smooth, as a photograph is."""
    rng = np.random.default_rng(seed)
    shape = (max(2, height // DETAIL_PX), max(2, width // DETAIL_PX), 3)
    coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (1111, 640), (90, 61)])
def test_fast_squares_differ_by_one_level_at_most(
    size: tuple[int, int], interpolation: str
) -> None:
    spec = replace(SPEC, interpolation=interpolation)
    image = photograph(*size)
    exact = np.asarray(resize_and_crop(image, spec)).astype(int)
    fast = np.asarray(resize_and_crop(image, spec, fast=True)).astype(int)
    assert fast.shape == (224, 224, 3)
    assert np.abs(fast - exact).max() <= 1
    assert np.mean(fast != exact) < 0.01


@pytest.mark.parametrize("seed", range(3))
def test_a_large_jpeg_that_is_shrunk_while_decoded_looks_the_same(seed: int) -> None:
    side = 2 * FAST_MARGIN * SPEC.resize_size + 100
    content = encode(photograph(side + 200, side, seed), "JPEG", quality=92)
    exact = decode_square(content, SPEC, fast=False).astype(float)
    fast = decode_square(content, SPEC, fast=True).astype(float)
    difference = np.abs(fast - exact)
    assert difference.max() > 0  # it was shrunk
    assert difference.mean() < 1.0  # of 256 levels
    assert difference.max() < 16


def test_a_small_jpeg_is_decoded_whole() -> None:
    content = encode(photograph(500, 375), "JPEG", quality=92)
    exact = decode_square(content, SPEC, fast=False).astype(int)
    assert np.abs(decode_square(content, SPEC, fast=True).astype(int) - exact).max() <= 1


def test_a_squashed_picture_is_all_there() -> None:
    spec = replace(SPEC, crop_mode="squash", crop_pct=1.0, image_size=64)
    image = photograph(300, 100)
    square = np.asarray(resize_and_crop(image, spec)).astype(int)
    whole = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(square - whole).max() <= 1
    fast = np.asarray(resize_and_crop(image, spec, fast=True)).astype(int)
    assert np.abs(square - fast).max() <= 1
