"""Batches from a staged data set."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effnet_core.config.schema import DataConfig
from effnet_core.data.images import decode_image
from effnet_core.data.loader import Batch, batches
from effnet_core.data.manifest import Split, open_dataset
from effnet_core.data.preprocess import preprocess
from effnet_core.data.records import split_as, write_records
from effnet_core.data.staging import stage_dataset
from effnet_core.data.transforms import eval_transforms, train_transforms
from effnet_core.errors import DataError
from tests.support.fakes import SPEC
from tests.support.images import draw, encode


@pytest.fixture
def split(data_dir: Path) -> Split:
    return open_dataset(data_dir).split("train")


def load(
    split: Split, indices: list[int], *, train: bool = False, **settings: int | float
) -> list[Batch]:
    transforms = train_transforms(SPEC, DataConfig()) if train else eval_transforms(SPEC)
    settings = {"batch_size": 4, "workers": 1, "seed": 0, **settings}
    found = batches(split, indices, transforms=transforms, background=SPEC.background, **settings)  # type: ignore[arg-type]
    return list(found)


def pixels(loaded: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.images.asnumpy() for batch in loaded])


def test_images_and_labels_come_in_the_order_asked_for(split: Split) -> None:
    order = [23, 0, 7, 7, 16, 1, 2, 3]
    loaded = load(split, order)
    assert [batch.valid for batch in loaded] == [4, 4]
    labels = np.concatenate([batch.labels.asnumpy() for batch in loaded])
    assert labels.dtype == np.int32
    assert labels.tolist() == split.labels[order].tolist()
    for index, image in zip(order, pixels(loaded), strict=True):
        content = (split.root / split.paths[index]).read_bytes()
        assert np.abs(image - preprocess(decode_image(content), SPEC)).max() <= 1e-6


@pytest.mark.parametrize("workers", [1, 2, 64])
def test_order_does_not_depend_on_the_workers(split: Split, workers: int) -> None:
    """More workers than cores are not an error, as they would be to MindSpore."""
    order = list(range(23, -1, -1))
    expected, found = pixels(load(split, order)), pixels(load(split, order, workers=workers))
    assert np.array_equal(expected, found)


@pytest.mark.parametrize(
    ("count", "valid"), [(1, [1]), (3, [3]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])]
)
def test_a_short_last_batch_keeps_its_shape_and_says_what_counts(
    split: Split, count: int, valid: list[int]
) -> None:
    loaded = load(split, list(range(count)))
    assert [batch.valid for batch in loaded] == valid
    assert all(batch.images.shape == (4, 3, 32, 32) for batch in loaded)
    assert all(batch.labels.shape == (4,) for batch in loaded)


def test_no_images_no_batches(split: Split) -> None:
    assert load(split, []) == []


def test_the_seed_decides_the_augmentation(split: Split) -> None:
    order = list(range(8))
    first, again, other = (pixels(load(split, order, train=True, seed=s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.fixture
def damaged(split: Split, tmp_path: Path) -> Split:
    """A copy of the split that may be damaged."""
    shutil.copytree(split.root, tmp_path / "copy")
    return open_dataset(tmp_path / "copy").split("train")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_disappeared_is_named(damaged: Split, workers: int) -> None:
    lost = damaged.root / damaged.paths[9]
    lost.unlink()
    with pytest.raises(DataError) as caught:
        load(damaged, list(range(24)), workers=workers)
    assert str(caught.value) == (
        f"image {lost} cannot be read (no such file or directory); stage the data set again"
    )


def test_a_file_that_changed_is_reported(damaged: Split) -> None:
    changed, other = (damaged.root / damaged.paths[index] for index in (5, 6))
    shutil.copy(other, changed)
    assert len(load(damaged, list(range(8)))) == 2
    with pytest.raises(DataError) as caught:
        load(damaged, list(range(8)), check_share=1.0)
    assert str(caught.value) == (
        f"image {changed} has changed since it was staged (its SHA-256 is not the manifest's); "
        "stage the data set again"
    )


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_went_bad_is_named(damaged: Split, content: bytes) -> None:
    bad = damaged.root / damaged.paths[2]
    bad.unlink()
    bad.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(damaged, list(range(8)))
    assert str(caught.value).startswith(f"image {bad} cannot be decoded any more (")


def test_a_png_that_mindspore_refuses_and_pillow_reads_is_named(damaged: Split) -> None:
    """As a file may become after staging, which re-encodes such ones."""
    bad = damaged.root / damaged.paths[6]
    bad.unlink()
    bad.write_bytes(encode(draw())[:-3])
    assert decode_image(bad.read_bytes()).size == (40, 32)
    with pytest.raises(DataError) as caught:
        load(damaged, list(range(8)))
    assert str(caught.value).startswith(f"image {bad} cannot be decoded any more (")


def see_through(seed: int) -> bytes:
    image = draw(seed=seed).convert("RGBA")
    image.putalpha(draw(seed=seed + 50).convert("L"))
    return encode(image)


@pytest.mark.parametrize("background", [None, (255, 255, 255), (0, 90, 180)])
@pytest.mark.parametrize("form", ["files", "records"])
@pytest.mark.parametrize("workers", [1, 2])
def test_transparent_images_have_the_pixels_of_inference(
    damaged: Split, form: str, workers: int, background: tuple[int, int, int] | None
) -> None:
    spec = replace(SPEC, background=background)
    for index in (1, 2, 5):
        (damaged.root / damaged.paths[index]).unlink()
        (damaged.root / damaged.paths[index]).write_bytes(see_through(index))
    split = damaged
    if form == "records":
        folder = damaged.root / "renewed"
        for path, label in zip(damaged.paths, damaged.labels, strict=True):
            place = folder / "source" / str(label) / Path(path).name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(damaged.root / path, place)
        stage_dataset(folder / "source", folder / "data", val_share=0)
        write_records(folder / "data", "train")
        dataset = open_dataset(folder / "data")
        split = split_as(dataset, "train", DataConfig(format="mindrecord"))
    found = batches(
        split,
        range(8),
        transforms=eval_transforms(spec),
        batch_size=4,
        workers=workers,
        seed=0,
        background=background,
    )
    for path, image in zip(split.paths, pixels(list(found)), strict=False):
        content = (split.root / path).read_bytes()
        assert np.abs(image - preprocess(decode_image(content), spec)).max() <= 1e-6
