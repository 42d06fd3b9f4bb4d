"""Images and class folders for tests, drawn from a seed."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 70, 220), (210, 190, 40), (160, 60, 190))


def draw(
    width: int = 40, height: int = 32, *, seed: int = 0, label: int | None = None
) -> Image.Image:
    """An RGB image of smooth noise; with a ``label``, tinted in that class's colour."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 6), max(2, width // 6), 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    if label is None:
        return image
    tint = Image.new("RGB", image.size, COLOURS[label % len(COLOURS)])
    return Image.blend(image, tint, 0.6)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def class_folders(
    root: Path, counts: Mapping[str, int], *, width: int = 40, height: int = 32, seed: int = 0
) -> Path:
    """Fill ``root/CLASS/NNN.jpg`` with so many images of each class; returns ``root``."""
    for label, (name, count) in enumerate(counts.items()):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image = draw(width, height, seed=seed + 1000 * label + index, label=label)
            (folder / f"{index:03d}.jpg").write_bytes(encode(image, "JPEG", quality=90))
    return root


def source_with_splits(
    root: Path, *, train: int = 8, val: int = 4, classes: tuple[str, ...] = ("cat", "dog", "owl")
) -> Path:
    """``root/{train,val}/CLASS/NNN.jpg`` with so many images of each class; returns ``root``."""
    class_folders(root / "train", dict.fromkeys(classes, train))
    class_folders(root / "val", dict.fromkeys(classes, val), seed=100_000)
    return root
