"""Reading one image file: every mode becomes RGB, every fault a reason."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_core.data.images import ImageProblem, decode_image, read_image, to_rgb
from tests.images import draw, encode

ORIENTATION = 0x0112


def problem(content: bytes) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode_image(content)
    return str(caught.value)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM"])
def test_formats(format: str) -> None:
    image = decode_image(encode(draw(), format))
    assert image.size == (40, 32)
    assert image.format == format
    assert to_rgb(image).mode == "RGB"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (encode(draw(), "JPEG")[:150], "truncated"),
        (encode(draw(), "JPEG")[:-300], "truncated"),
        (encode(draw(), "PNG")[:-300], "truncated"),
        (encode(draw(), "BMP")[:-300], "truncated"),
        (encode(draw(), "WEBP")[:-300], "damaged"),
    ],
    ids=["empty", "text", "signature", "jpeg-header", "jpeg", "png", "bmp", "webp"],
)
def test_faults_become_reasons(content: bytes, reason: str) -> None:
    assert problem(content).startswith(reason)


@pytest.mark.parametrize("cut", range(1, 400, 13))
def test_a_jpeg_cut_anywhere_is_an_image_problem(cut: int) -> None:
    """MindSpore's decoder ends the process on some of these."""
    assert problem(encode(draw(), "JPEG")[:cut])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 9_000), (65_535, 65_535)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    assert problem(png_header(*size)).startswith("too large: ")


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (10, 1001)])
def test_strips_are_refused_because_enlarging_them_is_a_bomb(size: tuple[int, int]) -> None:
    assert problem(png_header(*size)) == f"too narrow: {size[0]}x{size[1]} px, more than 100 to 1"


def test_the_longest_strip_that_is_allowed() -> None:
    assert decode_image(encode(Image.new("RGB", (2, 200)))).size == (2, 200)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageProblem, match="no such file or directory"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageProblem, match="is a directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "1", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    source = draw().convert("P").convert("PA") if mode == "PA" else draw().convert(mode)
    rgb = to_rgb(source)
    assert rgb.mode == "RGB"
    reference = np.asarray(draw().convert("L") if mode in ("L", "LA", "1") else draw(), dtype=float)
    pixels = np.asarray(rgb.convert("L") if mode in ("L", "LA", "1") else rgb, dtype=float)
    assert abs(pixels.mean() - reference.mean()) < 12


def test_transparency_is_dropped_not_blended() -> None:
    image = draw().convert("RGBA")
    image.putalpha(10)
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(draw()))


def test_a_palette_with_transparency(tmp_path: Path) -> None:
    image = draw().convert("P", palette=Image.Palette.ADAPTIVE)
    content = encode(image, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(
        np.asarray(to_rgb(decode_image(content))), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_byte(format: str) -> None:
    values = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40) * 51
    image = decode_image(encode(Image.fromarray(values), format))
    pixels = np.asarray(to_rgb(image))
    assert np.array_equal(pixels[..., 0], values >> 8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, 0.2, 1.0]], np.float32), [0, 51, 255]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 25_600, 65_535]], np.int32), [0, 100, 255]),
    ],
    ids=["unit", "bytes", "nan", "int", "int-wide"],
)
def test_wide_samples_are_brought_into_range(values: np.ndarray, expected: list[int]) -> None:
    image = decode_image(encode(Image.fromarray(values), "TIFF"))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == expected


SEEN = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each orientation asks a viewer to do (EXIF 2.3, tag 274)."""


@pytest.mark.parametrize("orientation", SEEN)
def test_images_come_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = decode_image(encode(draw(), "PNG", exif=exif.tobytes()))
    turn = SEEN[orientation]
    wanted = draw() if turn is None else draw().transpose(turn)
    assert np.array_equal(np.asarray(image), np.asarray(wanted))
    assert image.format == ("PNG" if orientation == 1 else None)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_matter(exif: bytes) -> None:
    assert decode_image(encode(draw(), "JPEG", exif=exif)).size == (40, 32)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_only_the_first_frame_counts(format: str) -> None:
    first, second = (Image.new("RGB", (40, 32), colour) for colour in ("red", "blue"))
    exact = {"lossless": True} if format == "WEBP" else {}
    frames = encode(first, format, save_all=True, append_images=[second], **exact)
    image = decode_image(frames)
    assert getattr(image, "n_frames", 1) == 2
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(first))
