"""The preprocessing that belongs to a model, and its reference form with Pillow and numpy.

The same ``PreprocessSpec`` drives MindSpore's pipeline (``transforms.py``), is written beside every
checkpoint, and is applied here image by image; a test holds the two paths to the same pixels.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from effnet_core.config.schema import RunConfig
from effnet_core.data.images import MAX_PIXELS, decode_image, to_rgb
from effnet_core.results.checked import check_fields, with_tuples

if TYPE_CHECKING:
    from effnet_core.kernels.resize import Resizer

FloatArray = NDArray[np.float32]
PixelArray = NDArray[np.uint8]

FAST_MARGIN = 2
"""Reduced decoding leaves at least so many pixels for each one of the resized image."""

Unit = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=10)]
Level = Annotated[int, Field(ge=0, le=255)]

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class PreprocessSpec:
    """How an image becomes the network's input; travels with the weights."""

    image_size: Annotated[int, Field(ge=1, le=16_384)]
    """Side of the square input, px."""
    crop_pct: Annotated[float, Field(gt=0, le=1)]
    """Share of the resized side that the centre crop keeps."""
    interpolation: Annotated[str, Field(pattern="^(bicubic|bilinear)$")]
    """``bicubic`` or ``bilinear``."""
    mean: tuple[Unit, Unit, Unit]
    """For R, G, B, in 0-1 units."""
    std: tuple[Spread, Spread, Spread]
    """For R, G, B, in 0-1 units."""
    background: tuple[Level, Level, Level] | None = None
    """Colour that transparent images are laid on, 0-255; None drops transparency, as for sidecars that
    were written before there was a choice."""
    crop_mode: Annotated[str, Field(pattern="^(center|squash)$")] = "center"
    """``center`` keeps the picture's shape and cuts the middle; ``squash`` makes the whole picture square."""

    @property
    def resize_size(self) -> int:
        """Length of the shorter side before the crop, px."""
        return max(self.image_size, math.floor(self.image_size / self.crop_pct))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> PreprocessSpec:
        """The spec that ``to_dict`` described.

        Raises:
            ValueError: it is not one, or a value is out of its range.
        """
        return check_fields(cls, with_tuples(values, "mean", "std", "background"))

    @classmethod
    def from_config(cls, config: RunConfig) -> PreprocessSpec:
        """The spec that a run's settings ask for."""
        return cls(
            config.image_size,
            config.crop_pct,
            config.interpolation,
            config.mean,
            config.std,
            config.background,
        )


def placed(size: tuple[int, int], spec: PreprocessSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height that a picture is resized to, and the square's left and top in it."""
    short, (width, height) = spec.resize_size, size
    if spec.crop_mode == "squash":
        width, height = short, short
    elif width < height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    return (width, height), ((width - spec.image_size) // 2, (height - spec.image_size) // 2)


def resize_and_crop(image: Image.Image, spec: PreprocessSpec, *, fast: bool = False) -> Image.Image:
    """Resize the shorter side to ``spec.resize_size``, then cut the centre square.

    With ``squash`` both sides become ``spec.resize_size``, whatever the picture's shape.

    Args:
        image: RGB.
        spec: the two sizes and the filter.
        fast: compute only what the square shows, in three fifths of the time. Pillow holds the corners of
            such a box in single precision, which now and then rounds a value the other way: one in some
            thousand differs, by one level of 256.
    """
    size = spec.image_size
    (width, height), (left, top) = placed(image.size, spec)
    how = _FILTERS[spec.interpolation]
    if fast:
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), how, box)
    # In two passes: since version 13 Pillow by itself takes tall images the other way round, which
    # gives other pixels than before and than MindSpore's pipeline. The second pass needs only the
    # columns of the square.
    image = image.resize((width, image.height), how).crop((left, 0, left + size, image.height))
    return image.resize((size, height), how).crop((0, top, size, top + size))


def decode_square(
    content: bytes,
    spec: PreprocessSpec,
    *,
    fast: bool,
    max_pixels: int = MAX_PIXELS,
    resize: Resizer | None = None,
) -> PixelArray:
    """An encoded image as the square that the network sees, before normalisation.

    Args:
        content: the file's bytes.
        spec: what is done to it.
        fast: let the JPEG library reduce large pictures while it decodes them, down to no less than
            ``FAST_MARGIN`` times the size that is needed, and compute only what the square shows.
        max_pixels: of an image; larger ones are refused.
        resize: native code in place of Pillow's; what it computes is exact, ``fast`` or not.

    Returns:
        uint8, shape (image_size, image_size, 3).

    Raises:
        ImageProblem: it cannot be decoded.
    """
    enough = FAST_MARGIN * spec.resize_size if fast else None
    image = to_rgb(
        decode_image(content, at_least_px=enough, max_pixels=max_pixels), spec.background
    )
    if resize is not None:
        new_size, corner = placed(image.size, spec)
        square = resize(
            image,
            new_size=new_size,
            corner=corner,
            side=spec.image_size,
            interpolation=spec.interpolation,
        )
        if square is not None:
            return square
    return np.asarray(resize_and_crop(image, spec, fast=fast))


def normalise(pixels: PixelArray, spec: PreprocessSpec) -> FloatArray:
    """Squares (N, S, S, 3) uint8 as the network wants them, (N, 3, S, S) float32."""
    values = pixels.astype(np.float32) / 255.0
    values = (values - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def preprocess(image: Image.Image, spec: PreprocessSpec) -> FloatArray:
    """An image as the network wants it.

    Returns:
        float32, shape (3, image_size, image_size).
    """
    square = np.asarray(resize_and_crop(to_rgb(image, spec.background), spec))
    one: FloatArray = normalise(square[None], spec)[0]
    return one
