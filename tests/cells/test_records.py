"""Records give what files give: the same pixels and labels in the same order, from either."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effnet_core.config.schema import DataConfig
from effnet_core.data import records
from effnet_core.data.loader import Batch, batches
from effnet_core.data.manifest import Split, open_dataset
from effnet_core.data.records import record_files, split_as, write_records
from effnet_core.data.staging import stage_dataset
from effnet_core.data.transforms import eval_transforms, train_transforms
from effnet_core.errors import DataError
from tests.support.fakes import SPEC
from tests.support.images import source_with_splits

RECORDS = DataConfig(format="mindrecord")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """28 training images, in three files of records."""
    folder = tmp_path_factory.mktemp("records")
    source_with_splits(folder / "source", train=14, val=3, classes=("cat", "dog"))
    dataset, _ = stage_dataset(folder / "source", folder / "data")
    total = sum((dataset.root / path).stat().st_size for path in dataset.split("train").paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "FILE_BYTES", total // 3 + 500)
        answer = write_records(folder / "data", "train")
    assert answer["images"] == 28 and answer["files"] >= 3
    return folder / "data"


@pytest.fixture
def data_copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def load(
    split: Split, indices: list[int], *, kind: str = "bicubic", workers: int = 1
) -> list[Batch]:
    spec = replace(SPEC, interpolation="bilinear" if kind == "bilinear" else "bicubic")
    transforms = train_transforms(spec, DataConfig()) if kind == "train" else eval_transforms(spec)
    found = batches(
        split,
        indices,
        transforms=transforms,
        batch_size=4,
        workers=workers,
        seed=11,
        background=SPEC.background,
    )
    return list(found)


@pytest.mark.parametrize("kind", ["train", "bicubic", "bilinear"])
@pytest.mark.parametrize(("workers", "passes"), [(1, 1), (2, 1), (2, 7)])
def test_records_and_files_give_the_same_batches(
    prepared: Path, kind: str, workers: int, passes: int
) -> None:
    """Seven passes ask for more images than there are records."""
    order = [27, 0, 9, 9, 18, 1, 26, 3, 14, 13, 5] * passes
    dataset = open_dataset(prepared)
    files = split_as(dataset, "train", DataConfig())
    recorded = split_as(dataset, "train", RECORDS)
    assert files.records == () and len(recorded.records) >= 3
    # Nothing but the records can be read.
    recorded = replace(recorded, root=prepared / "gone")
    expected = load(files, order, kind=kind, workers=workers)
    found = load(recorded, order, kind=kind, workers=workers)
    assert [batch.valid for batch in found] == [batch.valid for batch in expected]
    assert sum(batch.valid for batch in found) == len(order)
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.images.asnumpy(), other.images.asnumpy())
        assert one.labels.asnumpy().tolist() == other.labels.asnumpy().tolist()
        assert (other.labels.dtype, other.labels.shape) == (one.labels.dtype, (4,))


def test_records_are_written_once(prepared: Path) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in record_files(open_dataset(prepared), "train")
    }
    assert write_records(prepared, "train") == {"images": 28, "files": 0}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_a_killed_writer_left_does_not_count(data_copy: Path) -> None:
    left = data_copy / "records" / ".val.part"
    left.mkdir()
    (left / "00000.mindrecord").write_bytes(b"half")
    dataset = open_dataset(data_copy)
    with pytest.raises(
        DataError, match=r"has no records of split 'val' \(data.format=mindrecord\)"
    ):
        split_as(dataset, "val", RECORDS)
    write_records(data_copy, "val")
    assert not left.exists()
    assert load(split_as(dataset, "val", RECORDS), [5, 0])


def test_records_of_other_data_are_written_anew(data_copy: Path) -> None:
    facts = data_copy / "records" / "train" / "records.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "digest": "other"}))
    assert record_files(open_dataset(data_copy), "train") == ()
    assert write_records(data_copy, "train")["files"] == 1
    assert len(record_files(open_dataset(data_copy), "train")) == 1


def test_an_image_that_changed_is_refused_and_nothing_is_left(data_copy: Path) -> None:
    dataset = open_dataset(data_copy)
    image = data_copy / dataset.split("val").paths[2]
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(DataError, match=f"{image.name} cannot be read"):
        write_records(data_copy, "val")
    image.write_bytes(content + b"x")
    with pytest.raises(DataError, match=f"{image.name} is not as it was staged"):
        write_records(data_copy, "val")
    assert record_files(dataset, "val") == ()


def test_room_is_asked_for_first(data_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "EMPTY_BYTES", 1 << 60)
    with pytest.raises(DataError, match=r"needs 1152921\.5 TB, but .* free"):
        write_records(data_copy, "val")
    assert not (data_copy / "records" / "val").exists()


def test_damaged_records_say_what_to_do(data_copy: Path) -> None:
    dataset = open_dataset(data_copy)
    for path in record_files(dataset, "train"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"records .* cannot be read; delete"):
        load(split_as(dataset, "train", RECORDS), [1, 2])
