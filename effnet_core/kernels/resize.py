"""Squares of pictures as Pillow makes them, bit by bit, in a third of the time: by native code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from effnet_core.kernels import build
from effnet_core.kernels.build import Unavailable
from effnet_core.kernels.choice import Mode

FILTERS = {"bilinear": 0, "bicubic": 1}
PIXEL_BYTES = 4
"""Of a pixel in Pillow's memory; the fourth means nothing in RGB."""


class Resizer:
    """The native function; any number of threads may call it."""

    def __init__(self, library: Path) -> None:
        self.call = ctypes.CDLL(str(library)).effnet_resize
        sizes = [ctypes.c_int64] * 7
        self.call.argtypes = [ctypes.c_void_p, *sizes, ctypes.c_int, ctypes.c_void_p]

    def __call__(
        self,
        image: Image.Image,
        *,
        new_size: tuple[int, int],
        corner: tuple[int, int],
        side: int,
        interpolation: str,
    ) -> NDArray[np.uint8] | None:
        """A square of a resized picture; None where it has to be Pillow, because it is tiny.

        The same as resizing the picture's rows and then its columns, and cutting out the square.

        Args:
            image: RGB.
            new_size: width and height of the whole picture after resizing.
            corner: left and top of the square in it.
            side: of the square, px.
            interpolation: ``bilinear`` or ``bicubic``.

        Returns:
            uint8, shape (side, side, 3).
        """
        square = np.empty((side, side, 3), np.uint8)
        address, _owner = _memory(image)
        how = FILTERS[interpolation]
        given = (address, *image.size, *new_size, *corner, side, how, square.ctypes.data)
        return None if self.call(*given) else square


def resizer(mode: Mode, tell: Callable[[str], None]) -> Resizer | None:
    """The native function, compiled where it has to be; None where Pillow is left.

    Args:
        mode: as ``runtime.kernels``; ``builtin`` asks for Pillow.
        tell: is given a line where something is compiled, or cannot be.
    """
    if mode == "builtin":
        return None
    try:
        return Resizer(build.library(build.plan(build.PIXELS), tell))
    except (Unavailable, OSError) as cause:
        tell(f"pictures are resized by Pillow, slower than by native code: {cause}")
        return None


def _memory(image: Image.Image) -> tuple[int, Any]:
    """The address of a picture's pixels, and what keeps them there."""
    try:
        buffer = pa.array(image).values.buffers()[1]  # without a copy
        if buffer.size == PIXEL_BYTES * image.width * image.height:
            return buffer.address, buffer
    except ValueError:  # a large picture, whose rows lie in several blocks
        pass
    content = image.tobytes("raw", "RGBX")
    view = np.frombuffer(content, np.uint8)
    return view.ctypes.data, content
