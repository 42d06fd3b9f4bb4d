"""The list of a data set's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from effnet_core.data.manifest import (
    DATASET_NAME,
    MANIFEST_NAME,
    image_id,
    open_dataset,
    rows_digest,
    schema,
    write_manifest,
)
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError
from effnet_core.system.files import write_json
from tests.support.images import class_folders

NAMES = ["a b,c.jpg", 'say "hi".jpg', "new\nline.jpg", "ü/🐈.jpg"]


def rows() -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id(name),
            "path": name,
            "split": "train",
            "label": label,
            "size_bytes": 3_000_000_000,
            "sha256": "0" * 64,
            "width": 10,
            "height": 20,
        }
        for label, name in enumerate(NAMES)
    ]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    write_manifest(path, rows())
    table = pq.read_table(path)
    assert table.schema.equals(schema())
    assert table.to_pylist() == rows()


def test_an_image_is_known_by_its_path() -> None:
    assert image_id("a/b.jpg") == image_id("a/b.jpg")
    assert len({image_id(name) for name in NAMES}) == len(NAMES)
    assert len(image_id("a")) == 16


@pytest.mark.parametrize("key", ["path", "split", "label", "sha256"])
def test_the_digest_covers_what_matters(key: str) -> None:
    changed = rows()
    changed[0][key] = "other"
    assert rows_digest(changed, ["a"]) != rows_digest(rows(), ["a"])


def test_the_digest_covers_class_names_and_order() -> None:
    assert rows_digest(rows(), ["a", "b"]) != rows_digest(rows(), ["a", "c"])
    assert rows_digest(rows(), ["a"]) != rows_digest(rows()[::-1], ["a"])
    assert rows_digest(rows(), ["a"]) == rows_digest(rows(), ["a"])


def test_open_dataset(data_dir: Path) -> None:
    dataset = open_dataset(data_dir)
    assert dataset.class_names == ("cat", "dog", "owl")
    assert dataset.num_classes == 3
    assert dataset.counts == {"train": 24, "val": 12}
    split = dataset.split("val")
    assert (split.name, len(split)) == ("val", 12)
    assert split.labels.dtype == np.int32
    assert list(split.paths) == sorted(split.paths)


def test_a_split_that_does_not_exist(data_dir: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(data_dir).split("vall")
    assert "no images in split 'vall'; did you mean 'val'?" in str(caught.value)
    assert "(it has: train 24, val 12)" in str(caught.value)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no staged data set"):
        open_dataset(tmp_path)
    write_json(tmp_path / DATASET_NAME, {"complete": False})
    with pytest.raises(DataError, match="was not finished"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset.json", b"[]"),
        ("dataset.json", b'{"complete": true}'),
        (
            "dataset.json",
            b'{"complete": true, "digest": 1, "counts": {}, "rejected": 0, "source": ""}',
        ),
        ("classes.json", b"null"),
        ("classes.json", b'["cat", "cat"]'),
        ("classes.json", b'["cat", 7, null]'),
        ("manifest.parquet", b""),
        ("manifest.parquet", b"PAR1 and no more PAR1"),
    ],
)
def test_a_damaged_data_set_is_refused_and_staged_again(
    name: str, content: bytes, tmp_path: Path
) -> None:
    source, out = class_folders(tmp_path / "source", {"cat": 3, "dog": 3}), tmp_path / "out"
    whole = stage_dataset(source, out)[0]
    (out / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        open_dataset(out).split("train")
    again, reused = stage_dataset(source, out)
    assert not reused
    assert again == whole
    assert len(again.split("train")) + len(again.split("val")) == 6


@pytest.mark.parametrize("path", ["../loot.jpg", "/etc/passwd", "images/../../loot.jpg"])
def test_a_manifest_whose_paths_leave_the_folder(path: str, tmp_path: Path) -> None:
    source, out = class_folders(tmp_path / "source", {"cat": 3, "dog": 3}), tmp_path / "out"
    stage_dataset(source, out)
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    rows[0]["path"] = path
    write_manifest(out / "manifest.parquet", rows)
    with pytest.raises(DataError, match="leaves the folder"):
        open_dataset(out).split(rows[0]["split"])
