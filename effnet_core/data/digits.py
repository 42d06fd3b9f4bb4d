"""The demo's data set: scikit-learn's handwritten digits, as folders of PNG files.

1,797 real digits of the UCI repository, 8x8 grey pixels, which the package carries; enlarged once so
that they can be looked at. The split is fixed: 1,200 to learn from, 297 to evaluate, 300 unlabelled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from effnet_core.errors import ConfigError
from effnet_core.system.files import make_folder, read_json, write_json

TRAIN_IMAGES = 1200
UNLABELLED_IMAGES = 300
SIDE_PX = 32
MARKER = "digits.json"


def write_digits(out: Path) -> bool:
    """Write ``OUT/labelled/{train,val}/DIGIT/*.png`` and ``OUT/unlabelled/*.png``.

    Returns:
        Whether the files had been there already.

    Raises:
        ConfigError: scikit-learn is not installed.
        DataError: the folder cannot be written to.
    """
    facts = {"train": TRAIN_IMAGES, "unlabelled": UNLABELLED_IMAGES, "side_px": SIDE_PX}
    if (out / MARKER).exists() and read_json(out / MARKER) == facts:
        return True
    try:
        from sklearn.datasets import load_digits
    except ImportError as cause:
        raise ConfigError(
            "the demo's data set comes with scikit-learn, which is not installed; "
            "pip install scikit-learn"
        ) from cause
    make_folder(out, what="data folder")
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    for position, index in enumerate(order):
        name = f"digit-{index:04d}.png"
        if position < TRAIN_IMAGES:
            path = out / "labelled" / "train" / str(digits.target[index]) / name
        elif position < len(order) - UNLABELLED_IMAGES:
            path = out / "labelled" / "val" / str(digits.target[index]) / name
        else:
            path = out / "unlabelled" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((digits.images[index] * 255 / 16).astype(np.uint8))
        grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(path)
    write_json(out / MARKER, facts)
    return False
