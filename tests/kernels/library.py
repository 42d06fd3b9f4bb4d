"""The operators' library without MindSpore: arrays in, arrays out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effnet_core.kernels import build
from tests.support.services import missing

FloatArray = NDArray[np.float32]


def built() -> Path:
    """The library of this machine; skips where it cannot be had."""
    try:
        return build.library(build.plan(), print)
    except build.Unavailable as cause:
        missing("the CPU kernels' library", how=str(cause))


class Library:
    """Calls operators as MindSpore would."""

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))

    def call(
        self, name: str, inputs: Sequence[FloatArray], outputs: Sequence[tuple[int, ...]]
    ) -> list[FloatArray]:
        """The outputs of ``effnet_NAME``, given their shapes; what it does not write stays NaN."""
        given = [np.ascontiguousarray(array, np.float32) for array in inputs]
        made = [np.full(shape, np.nan, np.float32) for shape in outputs]
        self.prepared(name, given, made)()
        return made

    def prepared(
        self, name: str, inputs: Sequence[FloatArray], outputs: Sequence[FloatArray]
    ) -> Callable[[], None]:
        """What calls ``effnet_NAME`` with arrays of float32 in C order, which it keeps."""
        every = [*inputs, *outputs]
        count = len(every)
        sizes = [(ctypes.c_int64 * max(1, a.ndim))(*a.shape) for a in every]
        data = (ctypes.c_void_p * count)(*[a.ctypes.data for a in every])
        ranks = (ctypes.c_int * count)(*[a.ndim for a in every])
        shapes = (ctypes.c_void_p * count)(*[ctypes.addressof(size) for size in sizes])
        function = getattr(self.functions, f"effnet_{name}")

        def call() -> None:
            code = function(count, data, ranks, shapes, None, None, None)
            assert code == 0, (
                f"effnet_{name} returned {code} for {len(every)} and {len(sizes)} arrays"
            )

        return call
