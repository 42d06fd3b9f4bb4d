"""Squares by native code: Pillow's, to the last bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from effnet_core.config.schema import RunConfig
from effnet_core.data.preprocess import PreprocessSpec, decode_square, resize_and_crop
from effnet_core.kernels import resize
from effnet_core.kernels.resize import Resizer, resizer
from tests.support.images import encode

SPEC = PreprocessSpec.from_config(RunConfig())


@pytest.fixture(scope="module")
def native() -> Resizer:
    said: list[str] = []
    found = resizer("auto", said.append)
    if found is None:
        pytest.skip(said[-1])
    return found


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def both(native: Resizer, image: Image.Image, spec: PreprocessSpec) -> tuple[np.ndarray, ...]:
    content = encode(image, "PNG")
    mine = decode_square(content, spec, fast=True, resize=native)
    return mine, np.asarray(resize_and_crop(image, spec))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (224, 224), (1111, 640), (90, 61)])
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_native_squares_are_pillows(
    native: Resizer, size: tuple[int, int], interpolation: str, mode: str
) -> None:
    spec = replace(SPEC, interpolation=interpolation, crop_mode=mode)
    mine, exact = both(native, noise(*size), spec)
    assert np.array_equal(mine, exact)


@pytest.mark.parametrize("seed", range(20))
def test_any_size_and_side(native: Resizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = rng.integers(1, 400, 2).tolist()
    side, share = int(rng.integers(1, 260)), float(rng.uniform(0.5, 1))
    mine, exact = both(
        native, noise(width, height, seed), replace(SPEC, image_size=side, crop_pct=share)
    )
    assert np.array_equal(mine, exact)


@pytest.mark.costly
def test_a_picture_in_several_blocks_of_memory(native: Resizer) -> None:
    image = noise(2700, 1700)  # more than Pillow's 16 MB
    mine, exact = both(native, image, SPEC)
    assert np.array_equal(mine, exact)


def test_a_picture_of_a_few_pixels_is_left_to_pillow(native: Resizer) -> None:
    tiny = noise(2, 2)
    assert native(tiny, new_size=(9, 9), corner=(0, 0), side=9, interpolation="bicubic") is None
    mine, exact = both(native, tiny, SPEC)
    assert np.array_equal(mine, exact)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_other_kinds(native: Resizer, mode: str) -> None:
    content = encode(noise(300, 200).convert(mode), "TIFF")
    mine = decode_square(content, SPEC, fast=False, resize=native)
    assert np.array_equal(mine, decode_square(content, SPEC, fast=False))


@pytest.mark.costly
def test_threads_side_by_side(native: Resizer) -> None:
    images = [noise(300 + n, 200 + 7 * n, n) for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: both(native, image, SPEC), images * 4))
    assert all(np.array_equal(mine, exact) for mine, exact in found)


def test_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert resizer("builtin", said.append) is None
    assert not said
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert resize.resizer("auto", said.append) is None
    (line,) = said
    assert "resized by Pillow" in line
    assert "no-such-compiler" in line
