"""Mixup, cutmix and random erasing, as arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from effnet_core.config.schema import DataConfig
from effnet_core.train.mixing import change_batch, changes_batches

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 3, 16, 16)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)


def changed(seed: int = 0, **settings: float) -> tuple[np.ndarray, np.ndarray]:
    cfg = DataConfig(**settings)
    before = IMAGES.copy()
    result = change_batch(np.random.default_rng(seed), IMAGES, LABELS, cfg, num_classes=3)
    assert np.array_equal(IMAGES, before)
    return result


def test_nothing_is_changed_by_default() -> None:
    assert not changes_batches(DataConfig())
    images, labels = changed()
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)


def test_mixup_blends_images_and_labels_alike() -> None:
    images, labels = changed(mixup_alpha=0.8)
    rng = np.random.default_rng(0)
    partner = rng.permutation(6)
    share = rng.beta(0.8, 0.8)
    assert images == pytest.approx(share * IMAGES + (1 - share) * IMAGES[partner], abs=1e-6)
    eye = np.eye(3)[LABELS]
    assert labels == pytest.approx(share * eye + (1 - share) * eye[partner], abs=1e-6)


def test_cutmix_labels_are_shares_of_pixels() -> None:
    seen = set()
    for seed in range(20):
        images, labels = changed(seed, cutmix_alpha=1.0)
        partner = np.random.default_rng(seed).permutation(6)
        own = (images == IMAGES).all(axis=1)  # (6, 16, 16)
        theirs = (images == IMAGES[partner]).all(axis=1)
        assert (own | theirs).all()
        moved = partner != np.arange(6)
        share = own[moved].mean() if moved.any() else 1.0
        eye = np.eye(3)[LABELS]
        if moved.any():
            assert labels == pytest.approx(share * eye + (1 - share) * eye[partner], abs=1e-6)
        seen.add(round(float(share), 3))
    assert len(seen) > 10


def test_both_take_turns() -> None:
    kinds = set()
    for seed in range(20):
        images, labels = changed(seed, mixup_alpha=1.0, cutmix_alpha=1.0)
        assert labels.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
        kinds.add("cut" if np.isin(images, IMAGES).all() else "blend")
    assert kinds == {"cut", "blend"}


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_erasing_fills_one_rectangle_of_so_many_images(rate: float) -> None:
    hit = 0
    for seed in range(50):
        images, labels = changed(seed, erase_rate=rate)
        assert np.array_equal(labels, LABELS)
        touched = (images != IMAGES).any(axis=1)  # (6, 16, 16)
        for mask in touched:
            if mask.any():
                hit += 1
                rows, columns = np.nonzero(mask)
                box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                assert box.all()
                assert 0.01 <= mask.mean() <= 0.4
    assert hit / 300 == pytest.approx(rate, abs=0.1)


def test_the_same_seed_changes_alike() -> None:
    settings = {"mixup_alpha": 1.0, "erase_rate": 0.5}
    assert np.array_equal(changed(3, **settings)[0], changed(3, **settings)[0])
    assert not np.array_equal(changed(3, **settings)[0], changed(4, **settings)[0])
