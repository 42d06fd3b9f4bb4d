"""An engine without a network."""

from __future__ import annotations

import numpy as np

from effnet_core.data.preprocess import PreprocessSpec

SPEC = PreprocessSpec(32, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class BrightnessPredictor:
    """Sure of ``red``, ``green`` or ``blue``, whichever channel of the image is brightest."""

    preprocess = SPEC
    class_names = ("red", "green", "blue")

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Ten times the mean of each channel."""
        self.batches.append(images.shape)
        return 10 * images.mean(axis=(2, 3))
