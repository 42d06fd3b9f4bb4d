"""Reading one image file safely, with Pillow: every mode becomes RGB, every fault a reason.

MindSpore's C++ decoder ends the process on a JPEG that is cut inside its header, so images are
verified with this module at staging, and batch inference, which meets unverified files, decodes with
it throughout.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from effnet_core.text import os_reason

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: they are bombs or belong in a tile server."""

MAX_SIDE_RATIO = 100
"""Narrower strips are refused: with the shorter side enlarged to the network's, they would be bombs."""

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".tif",
        ".tiff",
        ".gif",
        ".webp",
        ".ppm",
        ".pgm",
    ]
)
"""Names by which a file claims to be an image, in lower case."""

TRAINABLE_FORMATS = frozenset({"JPEG", "MPO", "PNG", "BMP"})
"""Formats that MindSpore's C++ decoder reads to the same pixels as Pillow; others are re-encoded at
staging. Its TIFF decoder refuses 32-bit samples and mixes transparency and other colour spaces in its
own way."""


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
        ImageProblem: it is unreadable.
    """
    try:
        return path.read_bytes()
    except OSError as cause:
        raise ImageProblem(os_reason(cause)) from cause


def decode_image(content: bytes, *, at_least_px: int | None = None) -> Image.Image:
    """The first frame of an encoded image.

    Args:
        content: the file's bytes.
        at_least_px: where given, a JPEG is decoded at a half, a quarter or an eighth of its size as long
            as both sides keep this many pixels: the library then skips most of the work.

    Raises:
        ImageProblem: as ``read_image``.
    """
    if not content:
        raise ImageProblem("empty file")
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        _refuse_size(image.width, image.height)
        if at_least_px is not None:
            image.draft(None, (at_least_px, at_least_px))  # of JPEGs; does nothing to others
        image.load()
    except ImageProblem:
        raise
    except UnidentifiedImageError as cause:
        raise ImageProblem("not an image") from cause
    except Image.DecompressionBombError as cause:
        raise ImageProblem(f"too large: more than {MAX_PIXELS:,} pixels") from cause
    except Exception as cause:  # a damaged file can raise nearly anything inside a decoder
        text = " ".join(str(cause).split()) or type(cause).__name__
        reason = "truncated" if "truncated" in text.lower() else f"damaged ({text})"
        raise ImageProblem(reason) from cause
    return _upright(image)


def _refuse_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageProblem(f"too large: {width}x{height} px, more than {MAX_PIXELS:,} in all")
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise ImageProblem(f"too narrow: {width}x{height} px, more than {MAX_SIDE_RATIO} to 1")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image
    except Exception:  # broken EXIF raises nearly anything and says nothing
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB: transparency is dropped, 16-bit values keep their upper byte.

    Raises:
        ImageProblem: the colours cannot be told.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        pixels = np.clip(values * _scale(image.mode, values.max(initial=0.0)), 0, 255)
        return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    try:
        if image.mode == "P":
            image = image.convert("RGBA")
        return image.convert("RGB")
    except Exception as cause:
        raise ImageProblem(f"colours of mode {image.mode} cannot be converted") from cause


def _scale(mode: str, largest: float) -> float:
    """What brings samples of more than 8 bits into 0-255."""
    if mode == "F" and largest <= 1:
        return 255.0
    return 1.0 if mode in ("F", "I") and largest <= 255 else 1 / 256
