"""Staging from every form that a data set comes in, to the same data set."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from pathlib import Path

import pytest

from effnet_core.data import staging
from effnet_core.data.card import class_bars, read_card, read_facts, side_bars
from effnet_core.data.manifest import Dataset, open_dataset
from effnet_core.data.sources import opening
from effnet_core.data.splits import split_of
from effnet_core.data.staging import WORK_NAME, stage_dataset
from effnet_core.errors import ConfigError, DataError, StoreError
from effnet_core.events import Event
from effnet_core.storage import S3Access, S3Url, s3_client, trees
from effnet_core.storage.bulk import Bulk
from effnet_core.storage.objects import StoredObject
from effnet_core.storage.trees import upload_tree
from effnet_core.system import files
from effnet_core.system.files import read_json, sha256_of_file, sha256_of_text
from tests.support import imagenet2012
from tests.support.images import class_folders, draw, encode, source_with_splits
from tests.support.s3 import SeaweedFS, new_bucket
from tests.unit.data.sources.test_archives import tar

CLASSES = ("cat", "dog")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return source_with_splits(tmp_path / "source", train=4, val=2, classes=CLASSES)


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> Dataset:
    """The data set of the plain folder."""
    return stage_dataset(source, tmp_path / "expected")[0]


def images(dataset: Dataset) -> set[tuple[str, str, str]]:
    """Split, class and digest of every image."""
    return {
        (split, dataset.class_names[label], sha256_of_file(dataset.root / path))
        for split in dataset.counts
        for path, label in zip(dataset.split(split).paths, dataset.split(split).labels, strict=True)
    }


def pack(folder: Path, archive: Path, *, inside: str = "") -> Path:
    with tarfile.open(archive, "w:gz" if archive.name.endswith("gz") else "w") as out:
        out.add(folder, arcname=inside or ".")
    return archive


# --- archives and shards --------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "flowers", "a/b"])
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_one_archive(
    source: Path, expected: Dataset, tmp_path: Path, kind: str, inside: str
) -> None:
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        around = tmp_path / "around"
        shutil.copytree(source, around / inside if inside else around, dirs_exist_ok=True)
        shutil.make_archive(str(tmp_path / "set"), "zip", around)
    else:
        pack(source, path, inside=inside)
    dataset, reused = stage_dataset(path, tmp_path / "out")
    assert not reused
    assert images(dataset) == images(expected)
    assert dataset.digest == expected.digest
    assert not (tmp_path / "out" / WORK_NAME).exists()
    assert stage_dataset(path, tmp_path / "out")[1]


def test_an_archive_for_each_split(source: Path, expected: Dataset, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    for split in ("train", "val"):
        pack(source / split, tmp_path / "packed" / f"{split}.tar")
    assert images(stage_dataset(tmp_path / "packed", tmp_path / "out")[0]) == images(expected)


def shards(source: Path, folder: Path, *, labels: str) -> Path:
    """Two training shards and one for validation; labels in ``.cls`` or ``.json`` files."""
    folder.mkdir()
    for split, count in (("train", 2), ("val", 1)):
        paths = sorted((source / split).rglob("*.jpg"))
        for number in range(count):
            entries: list[tuple[str, bytes | str]] = []
            for index, path in enumerate(paths[number::count]):
                key = f"{index:06d}"
                entries.append((f"{key}.jpg", path.read_bytes()))
                text = path.parent.name
                if labels == "json":
                    text = json.dumps({"label": text, "url": "none"})
                entries.append((f"{key}.{labels}", text.encode()))
            tar(folder / f"{split}-{number:05d}.tar", *entries)
    return folder


@pytest.mark.parametrize("labels", ["cls", "json"])
def test_tar_shards(source: Path, expected: Dataset, tmp_path: Path, labels: str) -> None:
    folder = shards(source, tmp_path / "shards", labels=labels)
    dataset, _ = stage_dataset(folder, tmp_path / "out")
    assert images(dataset) == images(expected)
    assert dataset.counts == {"train": 8, "val": 4}


def test_shards_with_numbers_keep_the_order_of_numbers(tmp_path: Path) -> None:
    entries: list[tuple[str, bytes | str]] = []
    for number in range(12):
        entries += [
            (f"{number:03d}.png", encode(draw(seed=number))),
            (f"{number:03d}.cls", str(number).encode()),
        ]
    tar(tmp_path / "data-0.tar", *entries)
    dataset, _ = stage_dataset(tmp_path / "data-0.tar", tmp_path / "out", val_share=0)
    assert dataset.class_names == tuple(f"{number:02d}" for number in range(12))


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ([], "image 'b.png' of shard 'train-0' has no label: put b.cls"),
        ([("b.json", b"{}")], "has no label"),
        ([("b.json", b"no json")], "has no label"),
    ],
)
def test_a_sample_without_a_label(
    tmp_path: Path, beside: list[tuple[str, bytes | str]], words: str
) -> None:
    image = encode(draw())
    tar(tmp_path / "train-0.tar", ("a.png", image), ("a.cls", b"x"), ("b.png", image), *beside)
    with pytest.raises(DataError, match=words):
        stage_dataset(tmp_path / "train-0.tar", tmp_path / "out")


def test_a_poisoned_archive_leaves_nothing_under_a_final_name(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", ("cat/a.png", encode(draw())), ("../../out", b"x"))
    with pytest.raises(DataError, match="is refused"):
        stage_dataset(path, tmp_path / "out")
    with pytest.raises(DataError, match="was not finished"):
        open_dataset(tmp_path / "out")
    assert not (tmp_path / "out" / "images").exists()


# --- Hugging Face and tables ----------------------------------------------------------------------


def test_imagefolder_with_validation_and_test(source: Path, tmp_path: Path) -> None:
    (source / "val").rename(source / "validation")
    class_folders(source / "test", dict.fromkeys(CLASSES, 1), seed=5)
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.counts == {"test": 2, "train": 8, "val": 4}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_imagefolder_with_metadata(
    source: Path, expected: Dataset, tmp_path: Path, kind: str
) -> None:
    for split in ("train", "val"):
        flat = tmp_path / "hf" / split
        flat.mkdir(parents=True)
        rows = []
        for path in sorted((source / split).rglob("*.jpg")):
            name = f"{path.parent.name}-{path.name}"
            shutil.copy(path, flat / name)
            rows.append((name, path.parent.name))
        if kind == "csv":
            lines = ["file_name,text,label", *(f'{n},"a, b",{label}' for n, label in rows)]
        else:
            lines = [json.dumps({"file_name": n, "label": label}) for n, label in rows]
        (flat / f"metadata.{kind}").write_text("\n".join(lines) + "\n")
    assert images(stage_dataset(tmp_path / "hf", tmp_path / "out")[0]) == images(expected)


def test_a_table_of_paths_and_labels(source: Path, expected: Dataset, tmp_path: Path) -> None:
    rows = [
        f"{path.relative_to(source)},{path.parent.name},{path.parent.parent.name}"
        for path in sorted(source.rglob("*.jpg"))
    ]
    table = source / "images.csv"
    table.write_text("\n".join(["path,label,split", *rows]) + "\n", encoding="utf-8-sig")
    assert images(stage_dataset(table, tmp_path / "out")[0]) == images(expected)
    table.write_text("\n".join(["path,label", *(row.rpartition(",")[0] for row in rows)]) + "\n")
    dataset, _ = stage_dataset(table, tmp_path / "free")
    assert {digest for _, _, digest in images(dataset)} == {d for _, _, d in images(expected)}


def test_a_file_that_a_table_lists_and_that_is_not_there(source: Path, tmp_path: Path) -> None:
    rows = [f"{p.relative_to(source)},{p.parent.name}" for p in sorted(source.rglob("*.jpg"))]
    (source / "t.csv").write_text("\n".join(["path,label", *rows, "gone.jpg,cat"]) + "\n")
    dataset, _ = stage_dataset(source / "t.csv", tmp_path / "out")
    assert dataset.rejected == 1
    assert "'gone.jpg', which is not there" in (tmp_path / "out" / "rejected.jsonl").read_text()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no images"),
        ("path,label\n", "lists no images"),
        ("pth,label\na,b\n", r"has no column 'path'; did you mean 'pth'\? \(it has: pth, label\)"),
        ("path,x,y\na,b,c\n", "has no column 'label'.*data.label_column"),
        ("path,label\n../a.jpg,cat\n", r"line 2 of t.csv has '\.\.' in its name"),
        ("path,label\n/etc/passwd,cat\n", "line 2 of t.csv has an absolute name that is not below"),
        ("path,label\na.jpg,\n", "line 2 of t.csv has no label"),
        ("path,label,split\na.jpg,cat,trian\n", "the split 'trian'; did you mean 'train'"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        stage_dataset(tmp_path / "t.csv", tmp_path / "out")


# --- ILSVRC2012 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_imagenet_gives_every_validation_image_its_class(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "ilsvrc"
    truth = imagenet2012.build(root, packed=packed)
    dataset, _ = stage_dataset(root, tmp_path / "out")
    assert dataset.class_names == tuple(sorted(imagenet2012.SYNSETS))
    assert dataset.counts == {"train": 20, "val": 25}
    split = dataset.split("val")
    found = {
        Path(path).name: dataset.class_names[label]
        for path, label in zip(split.paths, split.labels, strict=True)
    }
    assert found == truth
    for path, label in zip(
        dataset.split("train").paths, dataset.split("train").labels, strict=True
    ):
        assert Path(path).name.startswith(dataset.class_names[label])
    assert read_json(tmp_path / "out" / "synsets.json") == imagenet2012.SYNSETS
    assert stage_dataset(root, tmp_path / "out")[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: (r / "ILSVRC2012_devkit_t12.tar.gz").unlink(), "has no devkit"),
        (lambda r: (r / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"x"), "devkit .* is damaged"),
        (
            lambda r: (r / "ILSVRC2012_img_val.tar").unlink(),
            "has 0 validation images, and the devkit",
        ),
        (lambda r: cut(r / "ILSVRC2012_img_train.tar"), "is damaged or cut .*; fetch it again"),
        (lambda r: cut(r / "ILSVRC2012_img_val.tar"), "is damaged or cut|has .* validation images"),
    ],
)
def test_imagenet_with_something_missing(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "ilsvrc"
    imagenet2012.build(root)
    change(root)
    with pytest.raises(DataError, match=words):
        stage_dataset(root, tmp_path / "out")


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 + 100])


# --- buckets --------------------------------------------------------------------------------------


def test_a_prefix_of_class_folders(
    source: Path, expected: Dataset, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    upload_tree(source, S3Url(bucket, "data/animals"), seaweedfs.access)
    url, access = f"s3://{bucket}/data/animals/", seaweedfs.access
    dataset, _ = stage_dataset(url, tmp_path / "out", access=access)
    assert images(dataset) == images(expected)
    assert dataset.digest == expected.digest
    assert dataset.source == f"s3://{bucket}/data/animals/"
    assert not (tmp_path / "out" / WORK_NAME).exists()
    assert stage_dataset(url, tmp_path / "out", access=access) == (dataset, True)
    new = encode(draw(seed=99), "JPEG")
    s3_client(access).put_object(Bucket=bucket, Key="data/animals/train/cat/new.jpg", Body=new)
    more, reused = stage_dataset(url, tmp_path / "out", access=access)
    assert (more.counts, reused) == ({"train": 9, "val": 4}, False)


def test_archives_and_shards_in_a_bucket(
    source: Path, expected: Dataset, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    folder = shards(source, tmp_path / "shards", labels="cls")
    upload_tree(folder, S3Url(bucket, "shards"), seaweedfs.access)
    pack(source, tmp_path / "set.tar.gz")
    s3_client(seaweedfs.access).upload_file(str(tmp_path / "set.tar.gz"), bucket, "x/set.tar.gz")
    for number, url in enumerate((f"s3://{bucket}/shards", f"s3://{bucket}/x/set.tar.gz")):
        out = tmp_path / str(number)
        assert images(stage_dataset(url, out, access=seaweedfs.access)[0]) == images(expected)


def test_staging_that_was_cut_fetches_only_the_rest(
    source: Path,
    tmp_path: Path,
    seaweedfs: SeaweedFS,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload_tree(source, S3Url(bucket, "a"), seaweedfs.access)
    plain, fetched = Bulk.get, []

    def failing(self: Bulk, found: StoredObject) -> bytes:
        if len(fetched) == 5:
            raise StoreError("the connection broke")
        fetched.append(found.key)
        return plain(self, found)

    monkeypatch.setattr(trees, "THREADS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Bulk, "get", failing)
        with pytest.raises(StoreError, match="the connection broke"):
            stage_dataset(f"s3://{bucket}/a", tmp_path / "out", access=seaweedfs.access)
    with pytest.raises(DataError, match="was not finished"):
        open_dataset(tmp_path / "out")
    again: list[str] = []
    monkeypatch.setattr(Bulk, "get", lambda self, f: again.append(f.key) or plain(self, f))
    dataset, _ = stage_dataset(f"s3://{bucket}/a", tmp_path / "out", access=seaweedfs.access)
    assert dataset.counts == {"train": 8, "val": 4}
    assert len(again) == 7 and not set(again) & set(fetched)


def test_a_bad_file_of_a_bucket_is_named_by_its_address(
    source: Path, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    (source / "train" / "cat" / "bad.jpg").write_bytes(b"no image")
    upload_tree(source, S3Url(bucket, "a"), seaweedfs.access)
    stage_dataset(f"s3://{bucket}/a", tmp_path / "out", access=seaweedfs.access)
    rejected = json.loads((tmp_path / "out" / "rejected.jsonl").read_text())
    assert rejected["path"] == f"s3://{bucket}/a/train/cat/bad.jpg"


def test_what_is_not_there(tmp_path: Path, moto: S3Access) -> None:
    bucket = new_bucket(moto)
    for url, kind, words in (
        (f"s3://{bucket}/none", DataError, "has no objects"),
        (f"s3://{bucket}/none/set.tar", DataError, "has no objects"),
        ("s3://no-such-bucket/a", StoreError, "the bucket does not exist"),
        ("s3://key:planted@bucket/a", ConfigError, "holds credentials"),
        ("https://me:planted@example.org/a.tar", DataError, "is of an unknown kind"),
        (str(tmp_path / "none.tar"), DataError, "does not exist"),
    ):
        with pytest.raises(kind, match=words) as caught:
            stage_dataset(url, tmp_path / "out", access=moto)
        assert "planted" not in str(caught.value)


def test_a_file_of_no_known_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match="is neither a folder nor an archive"):
        stage_dataset(tmp_path / "notes.md", tmp_path / "out")


def test_room_for_a_bucket_is_asked_for_first(
    source: Path,
    tmp_path: Path,
    seaweedfs: SeaweedFS,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload_tree(source, S3Url(bucket, "a"), seaweedfs.access)
    usage = shutil.disk_usage(tmp_path)._replace(free=files.RESERVE_BYTES + 100)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=f"fetching s3://{bucket}/a needs .* kB, but"):
        stage_dataset(f"s3://{bucket}/a", tmp_path / "out", access=seaweedfs.access)


# --- split, verification, card --------------------------------------------------------------------


def test_the_split_is_stable_and_gives_each_class_its_share() -> None:
    chance = random.Random(0)
    for count in (100, 400):
        for label in range(5):
            digests = [sha256_of_text(str(label), str(chance.random())) for _ in range(count)]
            val = [d for d in digests if split_of(d, 0.2, 0) == "val"]
            spread = 4 * (count * 0.2 * 0.8) ** 0.5
            assert abs(len(val) - 0.2 * count) < spread
            assert set(val) <= {d for d in digests if split_of(d, 0.3, 0) == "val"}
    digest = sha256_of_text("x")
    assert split_of(digest, 0, 0) == "train" and split_of(digest, 1, 0) == "val"
    assert len({split_of(digest, 0.5, seed) for seed in range(20)}) == 2


@pytest.fixture
def suspicious(source: Path) -> Path:
    """A copy in training, one in validation too, and one under another class."""
    copied = (source / "train/cat/000.jpg").read_bytes()
    (source / "train/cat/copy.jpg").write_bytes(copied)
    (source / "val/cat/leak.jpg").write_bytes((source / "train/cat/001.jpg").read_bytes())
    (source / "train/dog/wrong.jpg").write_bytes((source / "train/cat/002.jpg").read_bytes())
    (source / "train/cat/grey.png").write_bytes(encode(draw(300, 200).convert("L")))
    (source / "train/cat/bad.jpg").write_bytes(b"")
    return source


def test_copies_leakage_and_contradictions_are_found(
    suspicious: Path, tmp_path: Path, events: list[Event]
) -> None:
    stage_dataset(suspicious, tmp_path / "out")
    facts = read_facts(tmp_path / "out")
    assert facts["images"] == 16
    assert facts["leakage"] == {
        "groups": 1,
        "images": 2,
        "examples": [["images/train/cat/001.jpg", "images/val/cat/leak.jpg"]],
    }
    assert facts["duplicates"]["groups"] == 2  # the contradiction is a copy inside training, too
    assert facts["label_conflicts"]["examples"] == [
        ["images/train/cat/002.jpg", "images/train/dog/wrong.jpg"]
    ]
    assert facts["rejected"] == {"empty file": 1}
    assert facts["modes"] == {"RGB": 15, "L": 1}
    assert facts["formats"] == {"JPEG": 15, "PNG": 1}
    assert facts["width"] == {"least": 40, "median": 40, "largest": 300}
    told = [event.message for event in events if event.message.startswith("warning")]
    assert len(told) == 3 and "(leakage)" in told[0]


def test_a_class_without_validation_is_reported(
    source: Path, tmp_path: Path, events: list[Event]
) -> None:
    shutil.rmtree(source / "val" / "dog")
    stage_dataset(source, tmp_path / "out")
    assert any("1 class(es) have no validation image: dog" in e.message for e in events)


def test_the_data_card(suspicious: Path, tmp_path: Path) -> None:
    root = suspicious / "train" / "<b>*x*|y"
    root.mkdir()
    (root / "a.png").write_bytes(encode(draw(seed=77)))
    stage_dataset(suspicious, tmp_path / "out")
    page = (tmp_path / "out" / "data_card.html").read_text()
    assert "&lt;b&gt;*x*|y" in page and "<b>*x*" not in page
    assert "(leakage)" in page and "empty file 1" in page
    assert page.count("data:image/jpeg;base64,") == 11
    card = read_card(tmp_path / "out")
    assert "| cat | 6 | 3 |" in card
    assert "| &lt;b>\\*x\\*\\|y | 1 | 0 |" in card
    assert "**Look into this:**" in card
    assert read_card(tmp_path) == ""


def test_bars_count_every_image() -> None:
    rows = [
        {"class_name": name, "split": split, "width": side, "height": 2 * side}
        for name, split, side in (
            ("a", "train", 32),
            ("a", "val", 33),
            ("b", "train", 224),
            ("b", "train", 5000),
        )
    ]
    assert [(b.label, b.counts, b.share) for b in class_bars(rows, ["a", "b", "c"])] == [
        ("a", {"train": 1, "val": 1}, 1.0),
        ("b", {"train": 2, "val": 0}, 1.0),
        ("c", {"train": 0, "val": 0}, 0.0),
    ]
    bars = side_bars(rows)
    assert bars[0].label == "1-32 px" and bars[-1].label == "over 2048 px"
    assert sum(bar.total for bar in bars) == 4


def test_the_second_staging_of_a_bucket_fetches_nothing(
    source: Path,
    tmp_path: Path,
    seaweedfs: SeaweedFS,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload_tree(source, S3Url(bucket, "a"), seaweedfs.access)
    stage_dataset(f"s3://{bucket}/a", tmp_path / "out", access=seaweedfs.access)
    monkeypatch.setattr(opening.BucketSource, "labelled", None)
    monkeypatch.setattr(staging, "look_into", None)
    assert stage_dataset(f"s3://{bucket}/a", tmp_path / "out", access=seaweedfs.access)[1]
