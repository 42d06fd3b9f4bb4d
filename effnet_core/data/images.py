"""Reading one image file safely, with Pillow: every mode becomes RGB, every fault a reason.

MindSpore's C++ decoder ends the process on a JPEG that is cut inside its header, so images are
verified with this module at staging, and batch inference, which meets unverified files, decodes with
it throughout.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from effnet_core.files import os_reason

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: they are bombs or belong in a tile server."""

IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm"]
)
"""Names by which a file claims to be an image, in lower case."""

TRAINABLE_FORMATS = frozenset({"JPEG", "MPO", "PNG", "BMP", "TIFF"})
"""Formats that MindSpore's C++ decoder reads; others are re-encoded at staging."""


class ImageProblem(Exception):
    """Why a file cannot be used as an image; its text is the reason."""


def read_image(path: Path) -> Image.Image:
    """The first frame of an image file, decoded in full.

    Returns:
        The image in its own mode, with ``format`` kept.

    Raises:
        ImageProblem: the file is empty, unreadable, no image, damaged or too large.
    """
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise ImageProblem(os_reason(cause)) from cause
    return decode_image(content)


def decode_image(content: bytes) -> Image.Image:
    """The first frame of an encoded image.

    Raises:
        ImageProblem: as ``read_image``.
    """
    if not content:
        raise ImageProblem("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            if image.width * image.height > MAX_PIXELS:
                raise ImageProblem(
                    f"too large: {image.width}x{image.height} px, more than {MAX_PIXELS:,} in all"
                )
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
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB: transparency is dropped, 16-bit values keep their upper byte."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        scale = 1.0 if values.max(initial=0.0) <= 255 and image.mode in ("F", "I") else 1 / 256
        image = Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")
