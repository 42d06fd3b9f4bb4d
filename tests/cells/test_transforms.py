"""Evaluation sees the same pixels in MindSpore's pipeline as batch inference does with Pillow."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import mindspore.dataset as ds
import numpy as np
import pytest
from PIL import Image

from effnet_core.config.schema import DataConfig
from effnet_core.data.encoded import PNG_SIGNATURE
from effnet_core.data.images import TRAINABLE_FORMATS, decode_image
from effnet_core.data.loader import for_mindspore
from effnet_core.data.preprocess import PreprocessSpec, preprocess
from effnet_core.data.transforms import eval_transforms, train_transforms
from tests.support.images import draw, encode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SIZES = {
    "landscape": (100, 60),
    "portrait": (60, 100),
    "odd": (101, 67),
    "odd-portrait": (67, 101),
    "tall": (64, 300),  # Pillow 13 takes these in another order of passes
    "taller": (30, 1000),
    "wide": (300, 64),
    "wider": (1000, 30),
    "square": (64, 64),
    "as-resized": (36, 36),
    "one-off": (37, 36),
    "small": (20, 15),
    "small-portrait": (15, 20),
    "tiny": (3, 5),
    "pixel": (1, 1),
}


def in_pipeline(contents: list[bytes], operations: list[Any], *, seed: int = 0) -> np.ndarray:
    """Encoded images through a MindSpore pipeline."""
    ds.config.set_seed(seed)
    rows = [np.frombuffer(content, np.uint8) for content in contents]
    dataset = ds.GeneratorDataset([(row,) for row in rows], ["image"], shuffle=False)
    dataset = dataset.map(operations, input_columns=["image"], num_parallel_workers=1)
    iterator = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
    return np.stack([row[0] for row in iterator])


def same(contents: dict[str, bytes], spec: PreprocessSpec) -> None:
    assert {decode_image(content).format for content in contents.values()} <= TRAINABLE_FORMATS
    handed = [for_mindspore(content, spec.background) for content in contents.values()]
    pipeline = in_pipeline(handed, eval_transforms(spec))
    for (name, content), theirs in zip(contents.items(), pipeline, strict=True):
        ours = preprocess(decode_image(content), spec)
        assert theirs.shape == ours.shape == (3, spec.image_size, spec.image_size)
        assert theirs.dtype == ours.dtype == np.float32
        # Equal to the last bit of the 8-bit pixels; one such bit would be 0.017 here.
        assert np.abs(theirs - ours).max() <= 1e-6, name


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "crop_pct"), [(32, 0.875), (30, 0.9), (33, 0.93), (64, 1.0)])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_every_shape_of_image(format: str, size: int, crop_pct: float, interpolation: str) -> None:
    spec = PreprocessSpec(size, crop_pct, interpolation, MEAN, STD)
    contents = {
        name: encode(draw(*side, seed=index), format)
        for index, (name, side) in enumerate(SIZES.items())
    }
    same(contents, spec)


def test_squashed_pictures() -> None:
    contents = {
        name: encode(draw(*side, seed=index), "PNG")
        for index, (name, side) in enumerate(SIZES.items())
    }
    for crop_pct in (1.0, 0.9):
        same(contents, PreprocessSpec(32, crop_pct, "bicubic", MEAN, STD, crop_mode="squash"))


def kinds() -> dict[str, bytes]:
    """Files of every kind that staging passes on as they are."""
    image = draw(90, 70)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    transparent = image.convert("RGBA")
    transparent.putalpha(draw(90, 70, seed=1).convert("L"))
    wide = (np.asarray(image.convert("L")).astype(np.uint16) << 8) + 77
    key = Image.fromarray(np.where(wide > 40_000, 50_000, wide).astype(np.uint16))
    return {
        "grey": encode(image.convert("L")),
        "grey-jpeg": encode(image.convert("L"), "JPEG"),
        "grey-alpha": encode(transparent.convert("LA")),
        "alpha": encode(transparent),
        "palette": encode(palette),
        "palette-alpha": encode(palette, transparency=bytes(range(256))),
        "palette-key": encode(palette, transparency=7),
        "palette-few": encode(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=4)),
        "opaque": encode(image.convert("RGBA")),
        "invisible": encode(Image.new("RGBA", (90, 70), (9, 99, 200, 0))),
        "grey-key": encode(image.convert("L"), transparency=100),
        "colour-key": encode(image, transparency=image.getpixel((3, 3))),
        "bilevel-key": encode(image.convert("1"), transparency=0),
        "16-bit-key": encode(key, transparency=50_000),
        "16-bit-rgb": png_of_16_bits(np.asarray(image).astype(np.uint16) * 257, 2),
        "16-bit-alpha": png_of_16_bits(np.asarray(transparent).astype(np.uint16) * 257, 6),
        "16-bit-grey-alpha": png_of_16_bits(
            np.asarray(transparent.convert("LA")).astype(np.uint16) * 257, 4
        ),
        "long": encode(draw(2000, 20, seed=3)),
        "long-alpha": encode(transparent.resize((20, 2000))),
        "long-jpeg": encode(draw(20, 2000, seed=4), "JPEG"),
        "long-text": long_text(encode(image)),
        "bilevel": encode(image.convert("1")),
        "16-bit": encode(Image.fromarray(wide)),
        "bmp": encode(image, "BMP"),
        "bmp-alpha": encode(transparent, "BMP"),
        "bmp-palette": encode(palette, "BMP"),
        "cmyk": encode(image.convert("CMYK"), "JPEG"),
        "progressive": encode(image, "JPEG", progressive=True),
        "no-subsampling": encode(image, "JPEG", subsampling=0),
        "rgb-jpeg": encode(image, "JPEG", keep_rgb=True),
        "mpo": encode(image, "MPO", save_all=True, append_images=[draw(90, 70, seed=2)]),
    }


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits(values: np.ndarray, colour_type: int) -> bytes:
    """Pillow writes 16 bits only where there is one channel."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = (png_chunk(b"IHDR", head), png_chunk(b"IDAT", packed), png_chunk(b"IEND", b""))
    return PNG_SIGNATURE + b"".join(parts)


def long_text(content: bytes) -> bytes:
    note = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 4_000_000))
    return content[:33] + note + content[33:]


@pytest.mark.parametrize("background", [None, (255, 255, 255), (20, 120, 220)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_kind_of_file(interpolation: str, background: tuple[int, int, int] | None) -> None:
    same(kinds(), PreprocessSpec(32, 0.875, interpolation, MEAN, STD, background))


def test_a_huge_photograph() -> None:
    """108 megapixels: both sides see the same half of them."""
    image = draw(90, 70).resize((12_000, 9_000), Image.Resampling.NEAREST)
    spec = PreprocessSpec(32, 0.875, "bicubic", MEAN, STD, (255, 255, 255))
    same({"huge": encode(image, "JPEG", quality=30)}, spec)


def test_training_crops_vary_with_the_seed_and_have_the_right_shape() -> None:
    spec = PreprocessSpec(32, 0.875, "bicubic", MEAN, STD)
    contents = [encode(draw(90, 70), "JPEG")] * 8
    first, again, other = (
        in_pipeline(contents, train_transforms(spec, DataConfig()), seed=seed) for seed in (1, 1, 2)
    )
    assert first.shape == (8, 3, 32, 32)
    assert first.dtype == np.float32
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({image.tobytes() for image in first}) == 8


def test_training_without_augmentation_is_a_plain_resize() -> None:
    """The whole image, never mirrored: then only the resampling differs from evaluation."""
    data = DataConfig(crop_scale=(1, 1), crop_ratio=(1, 1), flip_rate=0)
    spec = PreprocessSpec(32, 1.0, "bicubic", MEAN, STD)
    content = encode(draw(64, 64), "PNG")
    [pixels] = in_pipeline([content], train_transforms(spec, data))
    assert np.abs(pixels - preprocess(decode_image(content), spec)).mean() < 0.1


def test_flip_rate_one_mirrors_every_image() -> None:
    spec = PreprocessSpec(32, 1.0, "bicubic", MEAN, STD)
    plain, mirrored = (
        in_pipeline(
            [encode(draw(64, 64))],
            train_transforms(
                spec, DataConfig(crop_scale=(1, 1), crop_ratio=(1, 1), flip_rate=rate)
            ),
        )[0]
        for rate in (0.0, 1.0)
    )
    assert np.array_equal(plain, mirrored[:, :, ::-1])
