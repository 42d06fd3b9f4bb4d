"""Tables that hold pictures, tables with a column for each class, and archives of other kinds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnet_core.data.sources.listed import TableRules
from effnet_core.data.sources.tree import Rules
from effnet_core.data.staging import WORK_NAME, stage_dataset
from effnet_core.errors import DataError
from effnet_core.events import Event
from effnet_core.storage import S3Access, S3Url
from effnet_core.storage.trees import upload_tree
from effnet_core.system.files import read_jsonl
from tests.support.images import draw, encode
from tests.support.s3 import new_bucket
from tests.unit.data.sources.test_archives import tar
from tests.unit.data.sources.test_real_sources import classes, pictures, put

NAMES = ["dog", "cat"]
"""As the hub numbers them; here the order is that of text."""


def write(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None) -> Path:
    """A Parquet file as ``datasets`` writes it."""
    table = pa.Table.from_pylist(rows)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        said = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": said})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def rows(count: int, *, first: int = 0, label: int | None = None) -> list[dict[str, Any]]:
    return [
        {
            "image": {"bytes": encode(draw(seed=first + n), "JPEG"), "path": f"img_{n}.jpg"},
            "label": n % 2 if label is None else label,
        }
        for n in range(count)
    ]


def hub(folder: Path) -> Path:
    write(folder / "data" / "train-00000-of-00002.parquet", rows(6), NAMES)
    write(folder / "data" / "train-00001-of-00002.parquet", rows(4, first=20), NAMES)
    write(folder / "data" / "validation-00000-of-00001.parquet", rows(4, first=40), NAMES)
    put(folder, "README.md", b"# a data set")
    return folder


EXPECTED = {("train", "cat"): 5, ("train", "dog"): 5, ("val", "cat"): 2, ("val", "dog"): 2}


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    folder, out = hub(tmp_path / "hub"), tmp_path / "out"
    dataset, _ = stage_dataset(folder, out)
    assert pictures(dataset) == Counter(EXPECTED)
    assert dataset.class_names == ("cat", "dog")
    assert stage_dataset(folder, out)[1]
    assert not (out / WORK_NAME).exists()
    bytes_of = {encode(draw(seed=seed), "JPEG") for seed in (*range(6), *range(20, 24))}
    train = dataset.split("train")
    assert {(out / path).read_bytes() for path in train.paths} == bytes_of


def test_a_data_set_of_the_hub_in_a_bucket(tmp_path: Path, moto: S3Access) -> None:
    place = S3Url(new_bucket(moto), "hub")
    upload_tree(hub(tmp_path / "hub"), place, moto)
    dataset, _ = stage_dataset(str(place), tmp_path / "out", access=moto)
    assert pictures(dataset) == Counter(EXPECTED)


def test_a_split_without_labels_is_left_out_and_reported(
    tmp_path: Path, events: list[Event]
) -> None:
    folder = hub(tmp_path / "hub")
    write(folder / "data" / "test-00000-of-00001.parquet", rows(3, first=60, label=-1), NAMES)
    dataset, _ = stage_dataset(folder, tmp_path / "out")
    assert pictures(dataset) == Counter(EXPECTED)
    message = "left out: split test with 3 picture(s), which have no classes"
    assert message in [event.message for event in events]
    assert len(read_jsonl(tmp_path / "out" / "other_files.jsonl")) == 4


@pytest.mark.parametrize("label", ["label", "fine_label", "category"])
@pytest.mark.parametrize("plain", [True, False])
def test_one_file_with_texts_as_labels(tmp_path: Path, plain: bool, label: str) -> None:
    found = rows(8)
    for row in found:
        row[label] = NAMES[row.pop("label")]
        if plain:
            row["image"] = row["image"]["bytes"]
    path = write(tmp_path / "pets.parquet", found)
    dataset, _ = stage_dataset(path, tmp_path / "out")
    assert classes(dataset) == Counter(cat=4, dog=4)


def test_numbers_keep_their_order_and_columns_may_be_said(tmp_path: Path) -> None:
    found = [
        {"scan": {"bytes": encode(draw(seed=n)), "path": None}, "grade": n % 11} for n in range(33)
    ]
    path = write(tmp_path / "scans.parquet", found)
    with pytest.raises(DataError, match=r"no column 'label' .*data.label_column"):
        stage_dataset(path, tmp_path / "out")
    rules = Rules(table=TableRules("scan", "grade"))
    dataset, _ = stage_dataset(path, tmp_path / "out", rules=rules)
    assert dataset.class_names == tuple(f"{n:02d}" for n in range(11))


def test_a_bad_picture_costs_one_and_is_named_by_its_row(tmp_path: Path) -> None:
    found = rows(20)
    found[3]["image"]["bytes"] = found[3]["image"]["bytes"][:200]
    found[5]["image"]["bytes"] = None
    path = write(tmp_path / "train.parquet", found, NAMES)
    stage_dataset(path, tmp_path / "out")
    rejected = read_jsonl(tmp_path / "out" / "rejected.jsonl")
    assert [(row["path"], row["reason"]) for row in rejected] == [
        ("train.parquet, row 3: img_3.jpg", "truncated"),
        ("train.parquet, row 5: img_5.jpg", "row 5 of train.parquet has no picture"),
    ]


def test_a_mixture_of_tables_is_refused(tmp_path: Path) -> None:
    folder = hub(tmp_path / "hub")
    write(folder / "data" / "0000.parquet", rows(3, first=60), NAMES)
    with pytest.raises(DataError, match=r"table '.*train.*' names its split and table '.*0000.*'"):
        stage_dataset(folder, tmp_path / "out")


def test_a_damaged_table_leaves_nothing(tmp_path: Path) -> None:
    folder = hub(tmp_path / "hub")
    bad = folder / "data" / "train-00000-of-00002.parquet"
    content = bytearray(bad.read_bytes())
    content[50:1500] = bytes(1450)
    bad.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000.* is damaged or cut"):
        stage_dataset(folder, tmp_path / "out")
    assert not list((tmp_path / "out" / WORK_NAME).rglob("*.partial"))


@pytest.mark.costly
def test_a_table_that_is_made_to_fill_the_disk_is_refused(tmp_path: Path) -> None:
    picture = {"bytes": encode(draw(), "JPEG") + bytes(20_000_000), "path": "a.jpg"}
    path = write(tmp_path / "a.parquet", [{"image": picture, "label": n % 2} for n in range(6)])
    assert path.stat().st_size < 2_000_000
    with pytest.raises(DataError, match=r"is refused: its pictures take more than"):
        stage_dataset(path, tmp_path / "out")


# --- a column for each class ----------------------------------------------------------------------


def roboflow(root: Path, *lines: str) -> Path:
    """Splits of plain pictures, each with the table that Roboflow exports."""
    for split, first in (("train", 0), ("valid", 20)):
        text = "filename, cat, dog\n"
        for n in range(8):
            put(root, f"{split}/{n}.jpg", seed=first + n)
            text += f"{n}.jpg, {n % 2}, {1 - n % 2}\n"
        put(root, f"{split}/_classes.csv", (text + "".join(lines)).encode())
    return root


def test_a_column_for_each_class(tmp_path: Path) -> None:
    dataset, _ = stage_dataset(roboflow(tmp_path / "source"), tmp_path / "out")
    assert pictures(dataset) == Counter(
        {("train", "cat"): 4, ("train", "dog"): 4, ("val", "cat"): 4, ("val", "dog"): 4}
    )


def test_pictures_of_several_classes_are_named_by_their_line(tmp_path: Path) -> None:
    source = roboflow(tmp_path / "source", "8.jpg, 1, 1\n", "9.jpg, 0, 0\n")
    for split in ("train", "valid"):
        put(source, f"{split}/8.jpg", seed=80)
        put(source, f"{split}/9.jpg", seed=90)
    words = r"line 10 of _classes.csv has 2 classes \(cat, dog\); a picture must have one"
    with pytest.raises(DataError, match=words):
        stage_dataset(source, tmp_path / "out")
    dataset, _ = stage_dataset(source, tmp_path / "out", max_rejected_share=0.2)
    assert classes(dataset) == Counter(cat=8, dog=8)
    reasons = [row["reason"] for row in read_jsonl(tmp_path / "out" / "rejected.jsonl")]
    assert "line 11 of _classes.csv has no class (all its columns are 0)" in reasons


def test_a_table_of_answers_of_a_challenge(tmp_path: Path) -> None:
    """ISIC's: no suffixes, numbers with a point, and a split."""
    text = "image,MEL,NV,BCC,split\n"
    for n in range(12):
        put(tmp_path, f"source/images/ISIC_{n}.jpg", seed=n)
        marks = ",".join(str(float(n % 3 == k)) for k in range(3))
        text += f"ISIC_{n},{marks},{'train' if n < 9 else 'test'}\n"
    put(tmp_path, "source/GroundTruth.csv", text.encode())
    dataset, _ = stage_dataset(tmp_path / "source", tmp_path / "out")
    assert dataset.class_names == ("BCC", "MEL", "NV")
    assert dataset.counts["test"] == 3


# --- other archives -------------------------------------------------------------------------------


def compressed(path: Path) -> Path:
    """The same file by Zstandard."""
    target = path.with_name(f"{path.name}.zst")
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(path.read_bytes())
    return target


def members() -> list[tuple[str, bytes | str]]:
    return [(f"{c}/{n}.jpg", encode(draw(seed=n), "JPEG")) for c in NAMES for n in range(3)]


def test_an_archive_by_zstandard(tmp_path: Path) -> None:
    plain, _ = stage_dataset(tar(tmp_path / "a.tar", *members()), tmp_path / "plain")
    dataset, _ = stage_dataset(compressed(tmp_path / "a.tar"), tmp_path / "out")
    assert dataset.digest == plain.digest


@pytest.mark.parametrize("end", [0.3, 0.9, 0.999])
def test_a_cut_archive_by_zstandard(tmp_path: Path, end: float) -> None:
    path = compressed(tar(tmp_path / "a.tar", *members()))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * end)])
    with pytest.raises(DataError, match="is damaged or cut"):
        stage_dataset(path, tmp_path / "out")


def test_a_bomb_by_zstandard(tmp_path: Path) -> None:
    path = compressed(tar(tmp_path / "a.tar", ("cat/1.jpg", bytes(60_000_000)), *members()))
    with pytest.raises(DataError, match=r"is refused: it unpacks to|unpacks to more than"):
        stage_dataset(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["pictures.7z", "pictures.RAR"])
@pytest.mark.parametrize("inside", [True, False])
def test_archives_of_other_programs_are_named(tmp_path: Path, name: str, inside: bool) -> None:
    path = put(tmp_path / "source", name, b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(DataError, match=r"is a .* archive, which is not read here; unpack it"):
        stage_dataset(path.parent if inside else path, tmp_path / "out")


def test_an_archive_of_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    for name in ("a\tb.tar", "c.tar"):
        tar(tmp_path / name, *members())
    folder = tmp_path / "source"
    folder.mkdir()
    for path in tmp_path.glob("*.tar"):
        path.rename(folder / path.name)
    with pytest.raises(DataError, match="a control character in its name; rename it"):
        stage_dataset(folder, tmp_path / "out")
