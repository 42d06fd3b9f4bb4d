"""Changes of whole batches: mixup, cutmix and random erasing, drawn from (seed, step, rank).

MindSpore's ``MixUpBatch`` and ``CutMixBatch`` keep a state of their own and cannot take turns, and its
``RandomErasing`` draws from Python's global state; these are arithmetic, so a resumed run repeats them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effnet_core.config.schema import DataConfig

FloatArray = NDArray[np.float32]

ERASE_AREA = (0.02, 1 / 3)
"""Range of the share of an image that erasing covers."""
ERASE_RATIO = (0.3, 1 / 0.3)
"""Range of the rectangle's height / width."""


def changes_batches(cfg: DataConfig) -> bool:
    """Whether there is anything to do."""
    return cfg.mixup_alpha > 0 or cfg.cutmix_alpha > 0 or cfg.erase_rate > 0


def change_batch(
    rng: np.random.Generator,
    images: FloatArray,
    labels: NDArray[np.int32],
    cfg: DataConfig,
    *,
    num_classes: int,
) -> tuple[FloatArray, NDArray[np.int32] | FloatArray]:
    """A batch as training sees it; the arguments are left as they are.

    With mixup and cutmix on, each batch gets one of them, by the toss of a coin.

    Args:
        images: (N, 3, S, S), normalised.
        labels: (N,).

    Returns:
        Images of the same shape, and labels as they were, or as probabilities (N, num_classes) where
        images may be mixed.

    Source: Zhang et al., mixup (arXiv 1710.09412); Yun et al., CutMix (arXiv 1905.04899); Zhong et
    al., random erasing (arXiv 1708.04896).
    """
    images = images.copy()
    if cfg.erase_rate > 0:
        _erase(rng, images, cfg.erase_rate)
    if cfg.mixup_alpha == 0 and cfg.cutmix_alpha == 0:
        return images, labels
    probabilities = np.eye(num_classes, dtype=np.float32)[labels]  # (N, num_classes)
    partner = rng.permutation(len(images))
    cuts = cfg.mixup_alpha == 0 or (cfg.cutmix_alpha > 0 and rng.random() < 0.5)
    if cuts:
        share = _paste(rng, images, partner, rng.beta(cfg.cutmix_alpha, cfg.cutmix_alpha))
    else:
        share = rng.beta(cfg.mixup_alpha, cfg.mixup_alpha)
        images = (share * images + (1 - share) * images[partner]).astype(np.float32)
    mixed = share * probabilities + (1 - share) * probabilities[partner]
    return images, mixed.astype(np.float32)


def _paste(
    rng: np.random.Generator, images: FloatArray, partner: NDArray[np.int64], share: float
) -> float:
    """Fill one rectangle of every image from its partner; the share of it that is still its own."""
    height, width = images.shape[2:]
    side = np.sqrt(1 - share)
    centre_y, centre_x = rng.integers(height), rng.integers(width)
    half_y, half_x = int(side * height) // 2, int(side * width) // 2
    rows = slice(max(0, centre_y - half_y), min(height, centre_y + half_y))
    columns = slice(max(0, centre_x - half_x), min(width, centre_x + half_x))
    images[:, :, rows, columns] = images[partner][:, :, rows, columns]
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return 1.0 - covered / (height * width)


def _erase(rng: np.random.Generator, images: FloatArray, rate: float) -> None:
    """Fill a rectangle of some images with noise, in place."""
    _, channels, height, width = images.shape
    low, high = np.log(ERASE_RATIO)
    for image in images:
        if rng.random() >= rate:
            continue
        area = rng.uniform(*ERASE_AREA) * height * width
        ratio = np.exp(rng.uniform(low, high))
        h = min(height, max(1, round(float(np.sqrt(area * ratio)))))
        w = min(width, max(1, round(float(np.sqrt(area / ratio)))))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        image[:, top : top + h, left : left + w] = rng.standard_normal((channels, h, w))
