"""Copies for the eye across splits: found where they are, and not where pictures only resemble each other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_core.data.card import read_facts
from effnet_core.data.near_copies import near_pairs
from effnet_core.data.staging import stage_dataset
from effnet_core.events import Event
from tests.support.images import draw, encode


def put(root: Path, name: str, image: Image.Image, **options: object) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if name.endswith("png") else "JPEG"
    (root / name).write_bytes(encode(image, kind, **options))


CHANGES = {
    "saved anew": lambda image: image,
    "resized": lambda image: image.resize((300, 240), Image.Resampling.LANCZOS),
    "a thumbnail": lambda image: image.resize((100, 80), Image.Resampling.LANCZOS),
    "enlarged": lambda image: image.resize((1200, 960), Image.Resampling.LANCZOS),
    "brighter": lambda image: image.point(lambda value: min(255, value + 6)),
}


@pytest.fixture(scope="module")
def without_copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes in two splits, all pictures different; read only."""
    root = tmp_path_factory.mktemp("without-copies")
    for split, first in (("train", 0), ("val", 100)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(8):
                image = draw(400, 320, seed=first + 20 * label + number)
                put(root, f"{split}/{name}/{number}.png", image)
    return root


@pytest.mark.parametrize("change", CHANGES)
def test_a_training_picture_that_was_saved_anew_in_validation_is_reported(
    without_copies: Path, tmp_path: Path, change: str, events: list[Event]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(without_copies, source, copy_function=os.link)
    copy = CHANGES[change](draw(400, 320, seed=3))
    put(source, "val/dog/copy.jpg", copy, quality=70)
    stage_dataset(source, tmp_path / "out")
    near = read_facts(tmp_path / "out")["near_leakage"]
    pair = ["images/train/cat/3.png", "images/val/dog/copy.jpg"]
    assert near == {"pairs": 1, "examples": [pair]}
    assert any("(near copies)" in event.message for event in events)


def test_exact_copies_and_plain_pictures_are_no_near_copies() -> None:
    rng = np.random.default_rng(0)
    busy, plain = rng.integers(0, 256, 32, np.uint8), np.eye(1, 32, dtype=np.uint8)[0]
    both = np.array([busy, plain, busy, plain])
    is_train = np.array([True, True, False, False])
    assert near_pairs(both, is_train, ["a", "b", "a", "c"]) == []
    assert near_pairs(both, is_train, ["a", "b", "d", "c"]) == [(0, 2)]
    assert near_pairs(both[:1], np.array([True]), ["a"]) == []
    assert near_pairs(both[:0], np.array([], bool), []) == []


def test_all_pairs_within_seven_bits_are_found() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 256, (200, 32), dtype=np.uint8)
    changed = base.copy()
    for row in changed:
        for bit in rng.choice(256, 7, replace=False):
            row[bit // 8] ^= 1 << (bit % 8)
    hashes = np.concatenate([base, changed])
    is_train = np.arange(400) < 200
    found = near_pairs(hashes, is_train, [str(n) for n in range(400)])
    assert found == [(n, n + 200) for n in range(200)]
