"""Reading one image file: every mode becomes RGB, every fault a reason."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_core.data import images
from effnet_core.data.encoded import is_whole_png, jpeg_size, needs_pillow
from effnet_core.data.images import (
    ImageProblem,
    check_image,
    decode_image,
    read_image,
    to_rgb,
    to_rgba,
)
from tests.support.images import draw, encode

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


@pytest.fixture(scope="module")
def photograph_of_108_megapixels() -> bytes:
    image = Image.new("RGB", (12_000, 9_000), "white")
    image.paste("black", (0, 0, 6_000, 4_500))
    return encode(image, "JPEG", quality=30)


def test_a_large_photograph_shrinks_while_it_is_decoded(
    photograph_of_108_megapixels: bytes,
) -> None:
    image = decode_image(photograph_of_108_megapixels)
    assert image.size == (6_000, 4_500)
    assert image.getpixel((10, 10)) == (0, 0, 0)
    assert image.getpixel((5_990, 10)) == (255, 255, 255)
    assert decode_image(photograph_of_108_megapixels, at_least_px=500).size == (1_500, 1_125)
    assert needs_pillow(photograph_of_108_megapixels)
    with pytest.raises(
        ImageProblem, match=r"12000x9000 px, more than 16,000,000 in all \(data.max"
    ):
        decode_image(photograph_of_108_megapixels, max_pixels=1_000_000)


def test_the_limit_can_be_raised() -> None:
    with pytest.raises(ImageProblem, match=r"more than 100,000,000 in all \(data\.max_pixels\)"):
        decode_image(png_header(11_000, 10_000))
    with pytest.raises(ImageProblem, match=r"truncated|damaged"):  # no longer its size
        decode_image(png_header(11_000, 10_000), max_pixels=110_000_000)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "note",
    [
        chunk(b"tEXt", b"k\0" + b"x" * 4_000_000),
        chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 4_000_000)),
        chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"x" * 4_000_000)),
        chunk(b"iCCP", b"n\0\0" + zlib.compress(b"x" * 4_000_000)),
        chunk(b"iCCP", b"n\0\0junk"),
        chunk(b"tEXt", b"k\0text")[:-1] + b"?",
    ],
    ids=["text", "packed text", "international text", "large profile", "bad profile", "checksum"],
)
def test_what_is_no_part_of_the_picture_does_not_matter(note: bytes) -> None:
    content = encode(draw())
    image = decode_image(content[:33] + note + content[33:])
    assert np.array_equal(np.asarray(image), np.asarray(draw()))


@pytest.mark.parametrize(
    ("damage", "whole"),
    [
        (lambda d: d, True),
        (lambda d: d + b"more", True),
        (lambda d: d[:-1], False),
        (lambda d: d[:-12], False),
        (lambda d: d[:-14] + b"\0" + d[-13:], False),
        (lambda d: d[:8] + chunk(b"CgBI", b"\0" * 4) + d[8:], False),
    ],
    ids=["none", "trailing", "cut", "no end", "checksum", "another kind"],
)
def test_what_is_a_whole_png(damage: Callable[[bytes], bytes], whole: bool) -> None:
    assert is_whole_png(damage(encode(draw()))) == whole


def test_size_by_a_jpegs_header() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 5000
    plain = encode(draw(), "JPEG", exif=exif.tobytes(), progressive=True)
    assert jpeg_size(plain) == (40, 32)
    assert jpeg_size(plain[:2] + b"\xff" + plain[2:]) == (40, 32)  # filled up
    assert jpeg_size(plain[:50]) == jpeg_size(b"\xff\xd8\xff\xd9") == (0, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>not found", r"not an image \(an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\0\5\26\7\0\2", "macOS keeps beside"),
    ],
)
def test_common_mistakes_are_named(content: bytes, words: str) -> None:
    with pytest.raises(ImageProblem, match=words):
        decode_image(content)


def test_pictures_of_iphones(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    assert heif
    content = encode(decode_image(encode(draw())), "HEIF", quality=100)
    assert decode_image(content).size == (40, 32)
    monkeypatch.setattr(images, "_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(ImageProblem, match=r"a HEIC picture; pip install 'effnet-flows\[heic\]'"):
        decode_image(content)


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


def see_through(image: Image.Image, alpha: int) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(alpha)
    return image


def test_transparency_is_dropped_where_there_is_no_background() -> None:
    assert np.array_equal(np.asarray(to_rgb(see_through(draw(), 10), None)), np.asarray(draw()))


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
@pytest.mark.parametrize("alpha", [0, 100, 255])
def test_a_transparent_image_lies_on_its_background(
    background: tuple[int, int, int], alpha: int
) -> None:
    share = alpha / 255
    expected = np.asarray(draw()) * share + np.array(background) * (1 - share)
    pixels = np.asarray(to_rgb(see_through(draw(), alpha), background)).astype(float)
    assert np.abs(pixels - expected).max() <= 1


def test_a_black_drawing_is_not_a_black_square() -> None:
    drawing = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (5, 5, 15, 15))
    pixels = np.asarray(to_rgb(decode_image(encode(drawing))))
    assert pixels[0, 0].tolist() == [255] * 3
    assert pixels[10, 10].tolist() == [0] * 3


COLOUR_KEYS = {"L": 128, "RGB": (255, 0, 0), "1": 0, "P": 1, "I;16": 32_896}


@pytest.mark.parametrize("mode", COLOUR_KEYS)
def test_a_colour_that_stands_for_transparent(mode: str) -> None:
    """PNG marks one grey, colour or entry of the palette (tRNS)."""
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 32_896, np.uint16))
    else:
        image = Image.new(mode, (8, 8), COLOUR_KEYS[mode])
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    content = encode(image, transparency=COLOUR_KEYS[mode])
    seen = to_rgb(decode_image(content), (10, 20, 30)).getpixel((3, 3))
    assert seen == (10, 20, 30)
    assert to_rgb(decode_image(content), None).getpixel((3, 3)) != (10, 20, 30)


def test_a_palette_with_transparency() -> None:
    image = draw().convert("P", palette=Image.Palette.ADAPTIVE)
    content = encode(image, "PNG", transparency=bytes(range(256)))
    dropped = np.asarray(to_rgb(decode_image(content), None))
    assert np.array_equal(dropped, np.asarray(image.convert("RGB")))
    share = np.asarray(image)[..., None] / 255
    expected = dropped * share + 255 * (1 - share)
    assert np.abs(np.asarray(to_rgb(decode_image(content))) - expected).max() <= 1


def test_what_has_to_be_re_encoded_keeps_its_transparency() -> None:
    image = see_through(draw(), 100)
    for format in ("WEBP", "TIFF"):
        exact = {"lossless": True, "exact": True} if format == "WEBP" else {}
        rgba = to_rgba(decode_image(encode(image, format, **exact)))
        assert np.array_equal(np.asarray(rgba), np.asarray(image))
    assert to_rgba(draw()).mode == "RGB"


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


# --- checking at a part of the size ---------------------------------------------------------------


def what_is_wrong(content: bytes, *, reduced: bool) -> str:
    try:
        if reduced:
            check_image(content, at_least_px=16)
        else:
            decode_image(content)
    except ImageProblem as problem:
        return str(problem)
    return ""


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}, {"restart_marker_blocks": 3}],
    ids=["baseline", "progressive", "fine", "restarts"],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_check_at_a_part_of_the_size_finds_the_same_damage(
    mode: str, options: dict[str, int]
) -> None:
    """Cut at every place, and with bytes that were overwritten."""
    content = encode(draw(90, 70).convert(mode), "JPEG", **options)
    rng = np.random.default_rng(0)
    cuts = [content[:end] for end in range(1, len(content), max(1, len(content) // 60))]
    for place in rng.integers(2, len(content) - 20, 200):
        spoiled = bytearray(content)
        spoiled[place : place + 4] = rng.bytes(4)
        cuts.append(bytes(spoiled))
    found = [what_is_wrong(cut, reduced=True) for cut in cuts]
    assert found == [what_is_wrong(cut, reduced=False) for cut in cuts]
    assert sum(map(bool, found)) > 60


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_check_says_the_size_of_the_whole_image(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encode(draw(403, 301), "JPEG", exif=exif)
    image, size, mode = check_image(content, at_least_px=64)
    assert mode == "RGB"
    assert size == ((403, 301) if orientation == 1 else (301, 403))
    assert image.size == ((101, 76) if orientation == 1 else size)
