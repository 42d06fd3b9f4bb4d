"""Reading one image file safely, with Pillow: every mode becomes RGB, every fault a reason.

MindSpore's C++ decoder ends the process on a JPEG that is cut inside its header, so images are
verified with this module at staging, and batch inference, which meets unverified files, decodes with
it throughout. Training hands over what MindSpore would decode to other pixels (``encoded.py``).
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from effnet_core.data.encoded import (
    HEAD_BYTES,
    JPEG_SIGNATURE,
    LARGE_PIXELS,
    PNG_SIGNATURE,
    is_heic,
    what_instead,
    without_notes,
)
from effnet_core.text import os_reason

MAX_PIXELS = LARGE_PIXELS
"""Larger images are refused before they are decoded: they are bombs or belong in a tile server."""

MAX_JPEG_TIMES, MAX_PROGRESSIVE_TIMES = 16.0, 2.5
"""How many times more pixels a JPEG may have, because it shrinks while it is decoded; a progressive one
is held in memory in full for that."""

MAX_SIDE_RATIO = 100
"""Narrower strips are refused: with the shorter side enlarged to the network's, they would be bombs."""

SHRINKING = ("JPEG", "MPO")
"""Formats whose library makes images smaller while it decodes them."""

SHRINKS = (1, 2, 4, 8)
"""By how much the JPEG library divides the sides of an image."""

USUAL = {JPEG_SIGNATURE: "JPEG", PNG_SIGNATURE: "PNG"}
"""How most images begin, and the format that nothing else begins like."""

READ_BYTES = 1 << 20

TURNED = range(2, 9)
"""Values of the EXIF orientation that ask for a turn."""

FLAT_LEVELS = 2
"""An image whose levels differ by no more than a JPEG's rounding is of one colour."""

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)

READ_FORMATS = (
    *("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "DIB", "AVIF", "JPEG2000"),
    *("PSD", "TGA", "PCX", "SGI", "QOI", "HEIF"),
)
"""Pillow's names. Others hold several images, run another program, or are known by name only."""

IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".avif", ".jp2", ".jpg2", ".j2k"),
        *(".psd", ".tga", ".qoi", ".mpo", ".apng", ".dib", ".pcx"),
    ]
)
"""Names by which a file claims to be an image, in lower case."""

TRAINABLE_FORMATS = frozenset({"JPEG", "MPO", "PNG", "BMP"})
"""Formats that MindSpore's C++ decoder reads to the same pixels as Pillow; others are re-encoded at
staging. Its TIFF decoder refuses 32-bit samples and mixes transparency and other colour spaces in its
own way."""

# Pillow would refuse at a size of its own; sizes are looked at here before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class ImageProblem(Exception):
    """Why a file cannot be used as an image; its text is the reason."""


def read_image(path: Path) -> Image.Image:
    """The first frame of an image file, decoded at its full size.

    Returns:
        The image in its own mode and upright. Its ``format`` is kept, unless the EXIF orientation asked
        for a turn: then it is None, because the file does not hold these pixels.

    Raises:
        ImageProblem: the file is empty, unreadable, no image, damaged or too large.
    """
    return decode_image(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The content of an image file.

    Raises:
        ImageProblem: it is unreadable, or a pipe or device, which would be waited for.
    """
    try:
        kind = os.stat(path).st_mode  # noqa: PTH116 - paths as strings take half the time
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise ImageProblem("not a regular file")
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = [os.read(handle, os.fstat(handle).st_size + 1)]
            while part := os.read(handle, READ_BYTES):  # it grows at this moment
                parts.append(part)
        finally:
            os.close(handle)
    except OSError as cause:
        raise ImageProblem(os_reason(cause)) from cause
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode_image(
    content: bytes, *, at_least_px: int | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The first frame of an encoded image.

    A JPEG of more than ``LARGE_PIXELS`` comes at a half, a quarter or an eighth of its size.

    Args:
        content: the file's bytes.
        at_least_px: where given, any JPEG is decoded at such a part of its size as long as both sides keep
            this many pixels: the library then skips most of the work.
        max_pixels: of a decoded image; larger ones are refused.

    Raises:
        ImageProblem: as ``read_image``.
    """
    return _guarded(content, lambda encoded: _decode(encoded, at_least_px, max_pixels))


class Checked(NamedTuple):
    """An image that is sound, as it was looked at, and what the file says of itself."""

    image: Image.Image
    """Upright; of a JPEG at a part of its size and in grey."""
    size: tuple[int, int]
    """Width and height of the whole image, px."""
    mode: str
    """Pillow's name of the file's own colours."""


def check_image(content: bytes, *, at_least_px: int, max_pixels: int = MAX_PIXELS) -> Checked:
    """As ``decode_image``, to see whether all of an image is sound.

    A reduced JPEG is read to its last byte, all of its colours, and so shows the same damage; what is saved
    is the arithmetic behind the entropy coding, which cannot fail. One that is turned comes in full.

    Args:
        content: the file's bytes.
        at_least_px: what the shorter side keeps of a JPEG.
        max_pixels: of a decoded image; larger ones are refused.

    Raises:
        ImageProblem: as ``read_image``.
    """
    size, mode = (0, 0), ""

    def decode(encoded: bytes) -> Image.Image:
        nonlocal size, mode
        image = _opened(encoded)
        if image.format in SHRINKING and _orientation(image) not in TURNED:
            size, mode = image.size, image.mode
            return _load(image, at_least_px, max_pixels, mode="L")
        return _load(image, None, max_pixels)

    image = _guarded(content, decode)
    return Checked(image, size, mode) if mode else Checked(image, image.size, image.mode)


def _guarded(content: bytes, decode: Callable[[bytes], Image.Image]) -> Image.Image:
    """What ``decode`` makes of a file, upright, or the reason against it."""
    if not content:
        raise ImageProblem("empty file")
    try:
        return _upright(decode(content))
    except ImageProblem:
        raise
    except Exception as cause:  # a damaged file can raise nearly anything inside a decoder
        if content.startswith(PNG_SIGNATURE):
            with suppress(Exception):  # a long text or a bad profile is not damage
                return _upright(decode(without_notes(content)))
        raise _problem(content, cause) from cause


def _decode(content: bytes, at_least_px: int | None, max_pixels: int) -> Image.Image:
    return _load(_opened(content), at_least_px, max_pixels)


def _opened(content: bytes) -> Image.Image:
    # Loading every plugin takes as long as reading dozens of images; most sets need two.
    usual = next((kind for start, kind in USUAL.items() if content.startswith(start)), None)
    return Image.open(io.BytesIO(content), formats=(usual,) if usual else _formats())


def _load(
    image: Image.Image, at_least_px: int | None, max_pixels: int, mode: str | None = None
) -> Image.Image:
    shrinks = image.format in SHRINKING
    times = 1.0
    if shrinks:
        times = MAX_PROGRESSIVE_TIMES if "progressive" in image.info else MAX_JPEG_TIMES
    _refuse_size(image.width, image.height, int(max_pixels * times))
    if shrinks and ((factor := _shrink(image.size, at_least_px)) > 1 or mode):
        image.draft(mode, (image.width // factor, image.height // factor))
    image.load()
    return image


def _shrink(size: tuple[int, int], at_least_px: int | None) -> int:
    """By how much a JPEG is divided while it is decoded."""
    width, height = size
    needed = next((n for n in SHRINKS if (width // n) * (height // n) <= LARGE_PIXELS), SHRINKS[-1])
    if at_least_px is None:
        return needed
    wanted = max((n for n in SHRINKS if min(width, height) // n >= at_least_px), default=1)
    return max(needed, wanted)


@cache
def _formats() -> tuple[str, ...]:
    """What is read here: with the extra ``heic``, iPhones' pictures too."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in READ_FORMATS if name in Image.OPEN)


def _problem(content: bytes, cause: Exception) -> ImageProblem:
    """The reason that people read."""
    if isinstance(cause, UnidentifiedImageError):
        if is_heic(content[:HEAD_BYTES]) and "HEIF" not in _formats():
            return ImageProblem("a HEIC picture; pip install 'effnet-flows[heic]' to read it")
        instead = what_instead(content[:HEAD_BYTES])
        return ImageProblem(f"not an image ({instead})" if instead else "not an image")
    text = " ".join(str(cause).split()) or type(cause).__name__
    return ImageProblem("truncated" if "truncated" in text.lower() else f"damaged ({text})")


def _refuse_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise ImageProblem(
            f"too large: {width}x{height} px, more than {limit:,} in all (data.max_pixels)"
        )
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise ImageProblem(f"too narrow: {width}x{height} px, more than {MAX_SIDE_RATIO} to 1")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image) if _orientation(image) in TURNED else image
    except Exception:  # broken EXIF raises nearly anything and says nothing
        return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def to_rgb(image: Image.Image, background: Colour | None = WHITE) -> Image.Image:
    """The image as 8-bit RGB; 16-bit values keep their upper byte.

    Args:
        image: in any mode.
        background: colour that a transparent image is laid on; None drops transparency, as was done for
            weights whose sidecar names no background.

    Raises:
        ImageProblem: the colours cannot be known.
    """
    if background is not None and image.has_transparency_data:
        return _on(image, background)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _to_8_bits(image).convert("RGB")
    return _converted(image if image.mode != "P" else _converted(image, "RGBA"), "RGB")


def to_rgba(image: Image.Image) -> Image.Image:
    """The image in 8 bits with its transparency, if it has any: what loses nothing but bits.

    Raises:
        ImageProblem: the colours cannot be known.
    """
    if not image.has_transparency_data:
        return to_rgb(image)
    if not image.mode.startswith("I"):
        return _converted(image, "RGBA")
    rgba = _to_8_bits(image).convert("RGBA")
    key = image.info["transparency"]
    shown = np.asarray(image) != (key if isinstance(key, int) else -1)
    rgba.putalpha(Image.fromarray(shown.astype(np.uint8) * 255))
    return rgba


def probe(image: Image.Image, size: tuple[int, int], background: Colour | None) -> Image.Image:
    """An image made as small as ``size``, as RGB or grey, at little cost."""
    if image.mode in ("RGB", "L") and not image.has_transparency_data:
        return image.resize(size, Image.Resampling.BILINEAR)
    # Some of its pixels: laying all of them on a background costs as much as decoding them.
    some = image.resize((8 * size[0], 8 * size[1]), Image.Resampling.NEAREST)
    return to_rgb(some, background).resize(size, Image.Resampling.BILINEAR)


def is_one_colour(image: Image.Image) -> bool:
    """Whether a network would see nothing but one colour.

    Args:
        image: RGB or grey.
    """
    return all(band[1] - band[0] <= FLAT_LEVELS for band in _extrema(image))


def _extrema(image: Image.Image) -> tuple[tuple[float, float], ...]:
    found: Any = image.getextrema()
    return found if isinstance(found[0], tuple) else (found,)


def _on(image: Image.Image, background: Colour) -> Image.Image:
    rgba = image if image.mode in ("RGBA", "LA") else to_rgba(image)
    ground = Image.new("RGB", rgba.size, background)
    if rgba.mode == "RGBA":
        ground.paste(rgba, mask=rgba)
    else:
        ground.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return ground


def _converted(image: Image.Image, mode: str) -> Image.Image:
    try:
        return image.convert(mode)
    except Exception as cause:
        raise ImageProblem(f"colours of mode {image.mode} cannot be converted") from cause


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    pixels = np.clip(values * _scale(image.mode, values.max(initial=0.0)), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _scale(mode: str, largest: float) -> float:
    """What brings samples of more than 8 bits into 0-255."""
    if mode == "F" and largest <= 1:
        return 255.0
    return 1.0 if mode in ("F", "I") and largest <= 255 else 1 / 256
