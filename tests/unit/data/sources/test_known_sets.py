"""Well-known data sets as they are downloaded: their folders, their lists, their names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from effnet_core.data.sources.tree import Rules
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError
from effnet_core.events import Event
from tests.unit.data.sources.test_real_sources import classes, other, pictures, put

FOODS = ("apple_pie", "ramen", "sushi")
WORDNET = ("n01443537", "n01629819", "n01641577")
PETS = ("Abyssinian", "Bengal", "american_bulldog")


def text(root: Path, name: str, *lines: str) -> None:
    put(root, name, "".join(f"{line}\n" for line in lines).encode())


def said(events: list[Event]) -> str:
    return "\n".join(event.message for event in events)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def food(source: Path) -> None:
    """``images/CLASS/NUMBER.jpg``, and lists of ``CLASS/NUMBER`` in ``meta/``."""
    listed: dict[str, list[str]] = {"train": [], "test": []}
    for seed, name in enumerate(FOODS):
        for n in range(6):
            put(source, f"images/{name}/{n}{seed}.jpg", seed=10 * n + seed)
            listed["train" if n < 4 else "test"].append(f"{name}/{n}{seed}")
    for split, lines in listed.items():
        text(source, f"meta/{split}.txt", *lines)
    text(source, "meta/classes.txt", *FOODS)
    text(source, "meta/labels.txt", "Apple pie", "Ramen", "Sushi")
    text(source, "README.txt", "Pictures of food, in images/ and so on.")


def tiny_imagenet(source: Path) -> None:
    for seed, name in enumerate(WORDNET):
        for n in range(3):
            put(source, f"train/{name}/images/{name}_{n}.JPEG", seed=10 * n + seed)
        text(source, f"train/{name}/{name}_boxes.txt", f"{name}_0.JPEG\t0\t0\t63\t63")
    rows = [f"val_{n}.JPEG\t{WORDNET[n % 3]}\t0\t32\t44\t62" for n in range(6)]
    for n in range(6):
        put(source, f"val/images/val_{n}.JPEG", seed=100 + n)
        put(source, f"test/images/test_{n}.JPEG", seed=200 + n)
    text(source, "val/val_annotations.txt", *rows)
    text(source, "wnids.txt", *WORDNET)
    text(source, "words.txt", "n01443537\tgoldfish, Carassius auratus")


def pets(source: Path) -> None:
    """All pictures in one folder; the class is a number in a list, and the beginning of the name."""
    listed: dict[str, list[str]] = {"trainval": [], "test": []}
    for number, name in enumerate(PETS, start=1):
        for n in range(1, 7):
            put(source, f"images/{name}_{n}.jpg", seed=10 * n + number)
            listed["trainval" if n < 5 else "test"].append(f"{name}_{n} {number} 1 {number}")
    for split, lines in listed.items():
        text(source, f"annotations/{split}.txt", *lines)
    head = ("#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids")
    text(source, "annotations/list.txt", *head, *listed["trainval"], *listed["test"])
    for number, name in enumerate(PETS):
        put(source, f"annotations/trimaps/{name}_1.png", seed=300 + number)


@pytest.mark.parametrize("wrapped", ["", "food-101/"])
def test_food_101(source: Path, out: Path, events: list[Event], wrapped: str) -> None:
    food(source / wrapped)
    dataset, _ = stage_dataset(source, out, max_rejected_share=0)
    assert dataset.class_names == FOODS
    found = pictures(dataset)
    assert {found["test", name] for name in FOODS} == {2}
    assert {found["train", name] + found["val", name] for name in FOODS} == {4}
    assert "train.txt" in said(events)


def test_tiny_imagenet(source: Path, out: Path, events: list[Event]) -> None:
    tiny_imagenet(source)
    dataset, _ = stage_dataset(source, out, max_rejected_share=0)
    assert dataset.class_names == WORDNET
    assert dataset.counts == {"train": 9, "val": 6}
    assert "left out: test/ with 6 picture(s), which have no classes" in said(events)


def test_pets(source: Path, out: Path, events: list[Event]) -> None:
    pets(source)
    dataset, _ = stage_dataset(source, out, max_rejected_share=0)
    assert set(dataset.class_names) == set(PETS)
    found = pictures(dataset)
    assert {found["test", name] for name in PETS} == {2}
    assert {found["train", name] + found["val", name] for name in PETS} == {4}
    assert "left out: annotations/ with 3 picture(s)" in said(events)
    assert Counter(other(out).values())["a picture without a class"] == 3


@pytest.mark.parametrize("names", [("images", "masks"), ("JPEGImages", "SegmentationClass")])
def test_masks_are_no_class(source: Path, out: Path, names: tuple[str, str]) -> None:
    for folder in names:
        for n in range(3):
            put(source, f"{folder}/{n}.png", seed=n + len(folder))
    with pytest.raises(DataError, match=r"has no class folders"):
        stage_dataset(source, out)
    as_classes, _ = stage_dataset(source, out, rules=Rules("classes"))
    assert as_classes.class_names == names
    for n in range(6):
        put(source, f"{names[0]}/{('cat', 'dog')[n % 2]}/{n}.png", seed=50 + n)
    inside, _ = stage_dataset(source, out)
    assert inside.class_names == ("cat", "dog")


def test_several_lists_of_one_split_are_told(source: Path, out: Path, events: list[Event]) -> None:
    """As the Describable Textures come: ten lists for each split."""
    for n in range(8):
        put(source, f"images/{('dotted', 'banded')[n % 2]}/{n}.jpg", seed=n)
    for part in (1, 2):
        for split, numbers in (("train", range(4)), ("val", (4, 5)), ("test", (6, 7))):
            lines = [f"{('dotted', 'banded')[n % 2]}/{n}.jpg" for n in numbers]
            text(source, f"labels/{split}{part}.txt", *lines)
    dataset, _ = stage_dataset(source, out)
    assert set(dataset.counts) == {"train", "val"}
    assert "the lists labels/test1.txt, labels/test2.txt, labels/train1.txt, ... are not" in said(
        events
    )
    for split in ("train", "val", "test"):
        (source / f"labels/{split}2.txt").unlink()
    dataset, _ = stage_dataset(source, out)
    assert dataset.counts == {"train": 4, "val": 2, "test": 2}


def cats_and_dogs(source: Path, folder: str = "train") -> None:
    for n in range(8):
        put(source, f"{folder}/{('cat', 'dog')[n % 2]}.{n // 2}.jpg", seed=n)


def test_lists_of_paths_alone_label_nothing(source: Path, out: Path) -> None:
    """As detectors keep them beside a table of classes."""
    rows = ["path,label"]
    listed: dict[str, list[str]] = {"train": [], "val": []}
    for n in range(8):
        put(source, f"images/{n}.jpg", seed=n)
        rows.append(f"images/{n}.jpg,{('cat', 'dog')[n % 2]}")
        listed["train" if n < 6 else "val"].append(f"images/{n}.jpg")
    text(source, "labels.csv", *rows)
    for split, lines in listed.items():
        text(source, f"{split}.txt", *lines)
    dataset, _ = stage_dataset(source, out, max_rejected_share=0)
    assert classes(dataset) == Counter(cat=4, dog=4)


@pytest.mark.parametrize("layout", ["auto", "splits"])
def test_unlabelled_images_of_a_split_are_left_out_by_either_layout(
    source: Path, out: Path, layout: Literal["auto", "splits"]
) -> None:
    tiny_imagenet(source)
    dataset, _ = stage_dataset(source, out, rules=Rules(layout), max_rejected_share=0)
    assert dataset.counts == {"train": 9, "val": 6}


@pytest.mark.parametrize("folder", [".", "train", "photos"])
def test_names_that_begin_with_the_class(source: Path, out: Path, folder: str) -> None:
    """Kaggle's cats and dogs: refused with the way out, and read when people say so."""
    cats_and_dogs(source, folder)
    with pytest.raises(DataError, match=r"cat\.0\.jpg.*say data\.layout=names \(cat 4, dog 4\)"):
        stage_dataset(source, out)
    dataset, _ = stage_dataset(source, out, rules=Rules("names"))
    assert classes(dataset) == Counter(cat=4, dog=4)


def test_names_and_splits(source: Path, out: Path, events: list[Event]) -> None:
    cats_and_dogs(source)
    for n in range(3):
        put(source, f"test1/{n}.jpg", seed=50 + n)
    with pytest.raises(DataError, match=r"data\.layout=names \(cat 4, dog 4\)"):
        stage_dataset(source, out)
    dataset, _ = stage_dataset(source, out, rules=Rules("names"))
    assert classes(dataset) == Counter(cat=4, dog=4)
    assert "left out: 3 picture(s) without a class; the first: test1/0.jpg" in said(events)
    for n in range(4):
        put(source, f"valid/{('cat', 'dog')[n % 2]} ({n}).jpg", seed=80 + n)
    wrapped = source.with_name("wrapped")
    wrapped.mkdir()
    source.rename(wrapped / "dogs-vs-cats")
    dataset, _ = stage_dataset(wrapped, out, rules=Rules("names"))
    assert dataset.counts == {"train": 8, "val": 4}
    assert dataset.class_names == ("cat", "dog")


def test_cameras_names_are_no_classes(source: Path, out: Path) -> None:
    for n in range(4):
        put(source, f"IMG_{n:04}.jpg", seed=n)
    with pytest.raises(DataError) as refused:
        stage_dataset(source, out)
    assert "data.layout" not in str(refused.value)
    with pytest.raises(DataError, match="only one class, 'IMG'"):
        stage_dataset(source, out, rules=Rules("names"))
    for n in range(4):
        (source / f"IMG_{n:04}.jpg").rename(source / f"{n}.jpg")
    with pytest.raises(DataError, match=r"no picture of .* begins with a class .*cat\.0\.jpg"):
        stage_dataset(source, out, rules=Rules("names"))
