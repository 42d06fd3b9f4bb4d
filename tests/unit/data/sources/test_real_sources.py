"""Folders, tables and shards as people and systems leave them, brought to one data set."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from effnet_core.data.manifest import Dataset, open_dataset
from effnet_core.data.sources.listed import TableRules
from effnet_core.data.sources.tree import Rules
from effnet_core.data.staging import OTHER_NAME, stage_dataset
from effnet_core.errors import DataError
from effnet_core.events import Event
from effnet_core.system.files import read_jsonl
from tests.support.images import class_folders, draw, encode
from tests.unit.data.sources.test_archives import tar, zipped

TWO = {"cat": 3, "dog": 3}


def put(root: Path, name: str, content: bytes | None = None, *, seed: int = 0) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(draw(seed=seed), "JPEG") if content is None else content)
    return path


def pictures(dataset: Dataset) -> Counter[tuple[str, str]]:
    """How many pictures each class has in each split."""
    return Counter(
        (split, dataset.class_names[label])
        for split in dataset.counts
        for label in dataset.split(split).labels
    )


def classes(dataset: Dataset) -> Counter[str]:
    return sum((Counter({name: n}) for (_, name), n in pictures(dataset).items()), Counter())


def other(out: Path) -> dict[str, str]:
    return {Path(row["path"]).name: row["reason"] for row in read_jsonl(out / OTHER_NAME)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "source", TWO)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# --- other files and what systems leave behind ---------------------------------------------------

OTHER = {
    "notes.txt": b"remember the milk",
    "sound.ogg": b"OggS",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "labels.json": b"{}",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "desktop.ini": b"[.ShellClassInfo]",
    "IMG_1.AAE": b"<?xml version='1.0'?>",
    "IMG_1.MOV": b"\0\0\0\x14ftypqt  ",
    "IMG_1.jpg.json": b"{}",
    "photo.jpg:Zone.Identifier": b"[ZoneTransfer]",
    "_SUCCESS": b"",
    "IMG_2.DNG": encode(draw(), "TIFF"),
    "IMG_3.CR2": b"II*\0",
    "half.jpg.crdownload": encode(draw(), "JPEG")[:100],
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_not_a_picture_is_listed_apart(source: Path, out: Path, name: str) -> None:
    put(source, f"cat/{name}", OTHER[name])
    dataset, _ = stage_dataset(source, out, max_rejected_share=0)
    assert (classes(dataset), dataset.rejected) == (Counter(TWO), 0)
    assert list(other(out)) == [name]


def test_a_picture_is_known_by_its_content_where_its_name_says_nothing(
    source: Path, out: Path
) -> None:
    for number, name in enumerate(("no-suffix", "photo.dat", "image.php", "picture.txt")):
        put(source, f"cat/{name}", seed=70 + number)
    dataset, _ = stage_dataset(source, out)
    assert classes(dataset)["cat"] == 7


def test_a_damaged_picture_counts_whatever_it_is_called(source: Path, out: Path) -> None:
    for name in ("cut", "cut.jpg", "cut.dat"):
        put(source, f"cat/{name}", encode(draw(), "JPEG")[:200])
    with pytest.raises(DataError, match=r"3 of 9 files \(33.3%\) cannot be used"):
        stage_dataset(source, out)


SYSTEMS = (
    *("__MACOSX/cat/._000.jpg", "._cat/000.jpg", "cat/._000.jpg", "cat/.DS_Store", "cat/Icon\r"),
    *("@eaDir/cat/SYNOPHOTO_THUMB_XL.jpg", "cat/@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg"),
    *("#recycle/old/a.jpg", "cat/.@__thumb/a.jpg", "@Recycle/a.jpg", "$RECYCLE.BIN/S-1/a.jpg"),
    *("System Volume Information/a.jpg", "lost+found/a.jpg", ".ipynb_checkpoints/a.jpg"),
    *("cat/.ipynb_checkpoints/000-checkpoint.jpg", ".thumbnails/a.jpg", "__pycache__/a.jpg"),
    *(".Trash-1000/files/a.jpg", "RECYCLER/a.jpg", "FOUND.000/a.jpg", ".cache/huggingface/a.jpg"),
)


@pytest.mark.parametrize("left", SYSTEMS)
def test_what_systems_leave_behind_is_left_out_and_reported(
    source: Path, out: Path, left: str, events: list[Event]
) -> None:
    put(source, left)
    dataset, _ = stage_dataset(source, out, max_rejected_share=0)
    assert (classes(dataset), dataset.rejected) == (Counter(TWO), 0)
    [line] = [event.message for event in events if event.message.startswith("left out: ")]
    assert "\n" not in line and "1 " in line
    assert [reason[:8] for reason in other(out).values()] == ["left out"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_of_macos(source: Path, tmp_path: Path, out: Path, kind: str) -> None:
    entries = [("README.txt", b"hello")]
    for path in sorted(source.rglob("*.jpg")):
        inner = f"data/{path.relative_to(source).as_posix()}"
        entries += [(inner, path.read_bytes()), (f"__MACOSX/{inner}", b"\0\5\26\7")]
        entries.append((f"data/{path.parent.name}/._{path.name}", b"\0\5\26\7"))
    make = tar if kind == "tar" else zipped
    dataset, _ = stage_dataset(make(tmp_path / f"a.{kind}", *entries), out)
    assert classes(dataset) == Counter(TWO)
    assert dataset.rejected == 0


def test_a_picture_beside_the_classes_is_reported(source: Path, out: Path) -> None:
    put(source, "overview.png", encode(draw()))
    dataset, _ = stage_dataset(source, out)
    assert classes(dataset) == Counter(TWO)
    assert other(out) == {"overview.png": "a picture without a class"}


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("Training", "Testing"), {"train", "test", "val"}),
        (("train", "test"), {"train", "test", "val"}),
        (("TRAIN", "VAL", "TEST"), {"train", "test", "val"}),
        (("train", "valid", "test"), {"train", "test", "val"}),
        (("training_set", "test_set"), {"train", "test", "val"}),
        (("seg_train/seg_train", "seg_test/seg_test"), {"train", "test", "val"}),
        (("asl_train", "asl_dev"), {"train", "val"}),
        (("train2017", "val2017"), {"train", "val"}),
        (("data/images/train", "data/images/validation"), {"train", "val"}),
        (("train",), {"train", "val"}),
    ],
)
def test_the_usual_names_of_splits(
    tmp_path: Path, out: Path, names: tuple[str, ...], splits: set[str]
) -> None:
    for number, name in enumerate(names):
        class_folders(tmp_path / "source" / name, TWO, seed=100 * number)
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert set(dataset.counts) == splits
    assert classes(dataset) == Counter({name: 3 * len(names) for name in TWO})


def test_an_unlabelled_split_is_left_out_and_reported(
    tmp_path: Path, out: Path, events: list[Event]
) -> None:
    for split in ("train", "validation"):
        class_folders(tmp_path / "source" / split, TWO, seed=len(split))
    for number in range(4):
        put(tmp_path / "source", f"test/{number}.jpg", seed=number)
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert dataset.counts == {"train": 6, "val": 6}
    assert any("left out: test/ with 4 picture(s)" in event.message for event in events)
    assert Counter(other(out).values()) == {"a picture without a class": 4}


@pytest.mark.parametrize("names", [("bus", "car", "train", "truck"), ("test", "train", "car")])
def test_a_class_may_be_called_train(tmp_path: Path, out: Path, names: tuple[str, ...]) -> None:
    class_folders(tmp_path / "source", dict.fromkeys(names, 4))
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert dataset.class_names == tuple(sorted(names))
    assert set(dataset.counts) == {"train", "val"}


def test_a_class_of_folders_may_be_called_train(tmp_path: Path, out: Path) -> None:
    for name in ("bus", "train"):
        class_folders(tmp_path / "source" / name, {"monday": 2, "tuesday": 2}, seed=len(name))
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert dataset.class_names == ("bus", "train")


def test_where_it_is_not_clear_people_are_asked(tmp_path: Path, out: Path) -> None:
    class_folders(tmp_path / "source" / "train", TWO)
    class_folders(tmp_path / "source", {"bus": 3}, seed=50)
    with pytest.raises(DataError, match=r"say data\.layout=classes.*data\.layout=splits"):
        stage_dataset(tmp_path / "source", out)
    as_classes, _ = stage_dataset(tmp_path / "source", out, rules=Rules("classes"))
    assert as_classes.class_names == ("bus", "train")
    as_splits, _ = stage_dataset(tmp_path / "source", out, rules=Rules("splits"))
    assert as_splits.class_names == ("cat", "dog")


def test_splits_without_classes_are_refused_with_the_ways_out(tmp_path: Path, out: Path) -> None:
    for name in ("train/a.jpg", "val/b.jpg"):
        put(tmp_path / "source", name)
    with pytest.raises(DataError, match=r"hold pictures themselves; put .* data\.layout=classes"):
        stage_dataset(tmp_path / "source", out)


# --- shards --------------------------------------------------------------------------------------


def shard(path: Path, count: int, *, extra: tuple[tuple[str, bytes], ...] = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries: list[tuple[str, bytes | str]] = list(extra)
    for n in range(count):
        entries += [
            (f"{n:04d}.jpg", encode(draw(seed=n + len(path.name)), "JPEG")),
            (f"{n:04d}.cls", str(n % 3).encode()),
        ]
    return tar(path, *entries)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("imagenet1k-train-0000", "imagenet1k-validation-00"),
        ("train/0000", "val/0000"),
        ("cc_Train_000", "cc_Valid_000"),
    ],
)
def test_the_split_of_a_shard_is_found_anywhere_in_its_name(
    tmp_path: Path, out: Path, train: str, val: str
) -> None:
    shard(tmp_path / "s" / f"{train}.tar", 12)
    shard(tmp_path / "s" / f"{val}.tar", 6)
    dataset, _ = stage_dataset(tmp_path / "s", out)
    assert dataset.counts == {"train": 12, "val": 6}


def test_a_mixture_of_shards_is_refused(tmp_path: Path, out: Path) -> None:
    shard(tmp_path / "s/data-train-0.tar", 6)
    shard(tmp_path / "s/data-0.tar", 6)
    with pytest.raises(
        DataError, match="'data-train-0' names its split and shard 'data-0' does not"
    ):
        stage_dataset(tmp_path / "s", out)
    (tmp_path / "s/data-0.tar").rename(tmp_path / "s/train-val-0.tar")
    with pytest.raises(DataError, match="names more than one split"):
        stage_dataset(tmp_path / "s", out)


def test_masks_and_what_macos_adds_are_no_samples(tmp_path: Path, out: Path) -> None:
    mask = encode(draw(seed=9))
    extra = (("._0000.jpg", b"\0\5\26\7"), ("0000.seg.png", mask), ("0001.depth.png", mask))
    shard(tmp_path / "s/a-train-0.tar", 6, extra=extra)
    shard(tmp_path / "s/a-val-0.tar", 3)
    dataset, _ = stage_dataset(tmp_path / "s", out, max_rejected_share=0)
    assert dataset.counts == {"train": 6, "val": 3}
    assert "part 'seg.png' of a sample" in other(out)["0000.seg.png"]


# --- links ---------------------------------------------------------------------------------------


def test_links_to_folders_are_followed_once(source: Path, tmp_path: Path, out: Path) -> None:
    class_folders(tmp_path / "store", {"more": 4}, seed=500)
    (source / "cat/part2").symlink_to(tmp_path / "store/more")
    (source / "cat/loop").symlink_to("..")
    (source / "cat/self").symlink_to("self")
    (source / "dog/up").symlink_to(tmp_path)
    dataset, _ = stage_dataset(source, out, max_rejected_share=0.2)
    assert classes(dataset) == Counter({"cat": 7, "dog": 3})


def test_a_data_set_made_of_links(source: Path, tmp_path: Path, out: Path) -> None:
    for name in TWO:
        (tmp_path / "links").mkdir(exist_ok=True)
        (tmp_path / "links" / name).symlink_to(source / name)
    assert classes(stage_dataset(tmp_path / "links", out)[0]) == Counter(TWO)


# --- validation where there is none --------------------------------------------------------------


def test_every_class_with_two_pictures_is_in_both_splits(tmp_path: Path, out: Path) -> None:
    counts = {f"c{n:02d}": 2 + n % 4 for n in range(40)} | {"single": 1}
    class_folders(tmp_path / "source", counts, width=20, height=16)
    dataset, _ = stage_dataset(tmp_path / "source", out)
    found = pictures(dataset)
    for name in counts:
        assert found["train", name] >= 1
        assert found["val", name] >= (name != "single")


def test_no_picture_ever_changes_sides_when_others_are_added(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "source"
    before: dict[str, str] = {}
    for count in (1, 2, 3, 5, 9):
        class_folders(source, {f"c{n}": count for n in range(12)}, width=20, height=16)
        dataset, _ = stage_dataset(source, out)
        after = {
            path.split("/", 2)[2]: split
            for split in dataset.counts
            for path in dataset.split(split).paths
        }
        moved = [path for path, split in before.items() if after[path] != split]
        assert not moved or count == 2  # a class of one picture has it in training
        assert not [path for path in moved if before[path] == "val"]
        before = after
    assert all((out / path).exists() for path in dataset.split("val").paths)


def test_without_a_share_nothing_validates(source: Path, out: Path) -> None:
    assert stage_dataset(source, out, val_share=0)[0].counts == {"train": 6}


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".gif"])
def test_long_names(source: Path, out: Path, suffix: str) -> None:
    kind = "GIF" if suffix == ".gif" else "JPEG"
    for end in ("a", "b"):
        name = "n" * (254 - len(suffix)) + end + suffix
        put(source, f"cat/{name}", encode(draw(seed=ord(end)), kind))
    dataset, _ = stage_dataset(source, out)
    assert classes(dataset)["cat"] == 5


def test_one_name_that_is_not_utf8_costs_one_file(source: Path, out: Path) -> None:
    put(source, os.fsdecode(b"cat/caf\xe9.jpg"), seed=33)
    put(source, os.fsdecode(b"caf\xe9/1.jpg"), seed=34)
    dataset, _ = stage_dataset(source, out, max_rejected_share=0.3)
    assert (classes(dataset), dataset.rejected) == (Counter(TWO), 2)


def test_two_spellings_of_one_class_are_one(source: Path, out: Path) -> None:
    for seed, form in enumerate(("NFC", "NFD")):
        name = unicodedata.normalize(form, "Café")
        put(source, f"{name}/a.jpg", seed=90 + seed)
        put(source, f"{name}/b.jpg", seed=95 + seed)
    dataset, _ = stage_dataset(source, out)
    assert classes(dataset) == Counter({**TWO, "Café": 4})
    assert len(set(dataset.split("train").paths)) == dataset.counts["train"]


def test_classes_that_are_numbers_keep_the_order_of_text_and_say_so(
    tmp_path: Path, out: Path, events: list[Event]
) -> None:
    class_folders(tmp_path / "source", {str(n): 2 for n in range(11)}, width=20, height=16)
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert dataset.class_names[:3] == ("0", "1", "10")
    [told] = [event.message for event in events if "class names are numbers" in event.message]
    assert told in (out / "data_card.html").read_text()


# --- tables --------------------------------------------------------------------------------------


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Six pictures without class folders."""
    for number in range(6):
        put(tmp_path / "flat", f"images/{number}.jpg", seed=number)
    return tmp_path / "flat"


def table(flat: Path, text: str, name: str = "labels.csv", encoding: str = "utf-8") -> Path:
    return put(flat, name, text.encode(encoding))


def rows(form: str, *, between: str = ",") -> str:
    return "".join(
        form.format(n=n, label=("cat", "dog")[n % 2]).replace(",", between) + "\n" for n in range(6)
    )


TABLES = {
    "commas": ("path,label\n" + rows("images/{n}.jpg,{label}"), "utf-8"),
    "semicolons": ("path;label\n" + rows("images/{n}.jpg,{label}", between=";"), "utf-8"),
    "tabs": ("path\tlabel\n" + rows("images/{n}.jpg,{label}", between="\t"), "utf-8"),
    "excel": ("sep=;\nfile;class\n" + rows("images/{n}.jpg,{label}", between=";"), "cp1252"),
    "kaggle": ("image_id,label\n" + rows("{n},{label}"), "utf-8"),
    "kaggle too": ("Image,Label\n" + rows("{n}.jpg,{label}"), "utf-8"),
    "two columns": ("id,breed\n" + rows("{n},{label}"), "utf-8"),
    "filepath": ("filepath,x,category\n" + rows("./images/{n}.jpg,1,{label}"), "utf-8"),
    "backslashes": ("path,label\n" + rows("images\\{n}.jpg,{label}"), "utf-8"),
    "windows": ("path,label\n" + rows("C:\\Users\\me\\images\\{n}.jpg,{label}"), "utf-8"),
    "absolute": ("path,label\n" + rows("/home/me/flat/images/{n}.jpg,{label}"), "utf-8"),
    "label studio": ("image,choice\n" + rows("/data/upload/7/{n}.jpg,{label}"), "utf-8"),
    "local files": (
        "image,choice\n" + rows("/data/local-files/?d=images/{n}.jpg,{label}"),
        "utf-8",
    ),
    "bucket": ("uri,label\n" + rows("s3://bucket/flat/images/{n}.jpg,{label}"), "utf-8"),
    "utf-16": ("path,label\n" + rows("images/{n}.jpg,{label}"), "utf-16"),
    "empty lines": ("path,label\n\n" + rows("images/{n}.jpg,{label}") + ",\n\n", "utf-8"),
    "quoted": ("path,note,label\n" + rows('images/{n}.jpg,"a; b\n, c",{label}'), "utf-8"),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("given", ["table", "folder", "zip"])
def test_tables(flat: Path, tmp_path: Path, out: Path, kind: str, given: str) -> None:
    text, encoding = TABLES[kind]
    source = table(flat, text, encoding=encoding)
    if given == "folder":
        source = flat
    elif given == "zip":
        source = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", flat))
    dataset, _ = stage_dataset(source, out, max_rejected_share=0)
    assert classes(dataset) == Counter(cat=3, dog=3)


def test_absolute_paths_of_this_machine(flat: Path, out: Path) -> None:
    text = "path,label\n" + rows(str(flat / "images") + "/{n}.jpg,{label}")
    dataset, _ = stage_dataset(table(flat, text), out)
    assert classes(dataset) == Counter(cat=3, dog=3)


def test_labels_may_hold_anything(flat: Path, out: Path) -> None:
    names = ["a/b", "..", "x\\y", ".hidden", "猫", "n" * 300]
    lines = "".join(f"images/{n}.jpg,{name}\n" for n, name in enumerate(names))
    dataset, _ = stage_dataset(table(flat, "path,label\n" + lines), out)
    assert set(dataset.class_names) == set(names)
    assert all((out / path).resolve().is_relative_to(out) for path in dataset.split("train").paths)


def test_columns_and_root_may_be_said(flat: Path, tmp_path: Path, out: Path) -> None:
    text = "a,b,c\n" + rows("{n}.jpg,{label},x")
    source = table(tmp_path / "elsewhere", text)
    with pytest.raises(DataError, match=r"no column 'path' .*it has: a, b, c.*data\.path_column"):
        stage_dataset(source, out)
    rules = Rules(table=TableRules("a", "b", str(flat / "images")))
    assert classes(stage_dataset(source, out, rules=rules)[0]) == Counter(cat=3, dog=3)
    with pytest.raises(DataError, match="no column 'd'"):
        stage_dataset(source, out, rules=Rules(table=TableRules("a", "d")))


def test_a_row_that_cannot_be_used_costs_one_picture_and_is_named(flat: Path, out: Path) -> None:
    bad = "../../etc/passwd,cat\n/etc/passwd,cat\nimages/0.jpg,dog\nimages/5.jpg,\ngone.jpg,cat\n"
    stage_dataset(
        table(flat, "path,label\n" + rows("images/{n}.jpg,{label}") + bad),
        out,
        max_rejected_share=0.5,
    )
    reasons = [row["reason"] for row in read_jsonl(out / "rejected.jsonl")]
    assert len(reasons) == 5
    for words in ("line 8 of labels.csv has '..'", "line 9 of labels.csv has an absolute name"):
        assert any(words in reason for reason in reasons)
    assert any("line 10" in r and "a second time, as 'dog' and as 'cat'" in r for r in reasons)
    assert any("line 11 of labels.csv has no label" in reason for reason in reasons)


def test_a_picture_of_another_folder_is_not_taken_for_one_that_is_missing(
    flat: Path, out: Path
) -> None:
    text = "path,label\n" + rows("images/{n}.jpg,{label}") + "other/0.jpg,dog\n"
    dataset, _ = stage_dataset(table(flat, text), out, max_rejected_share=0.5)
    assert dataset.rejected == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_at_the_root(flat: Path, out: Path, kind: str) -> None:
    if kind == "csv":
        text = "file_name,label\n" + rows("images/{n}.jpg,{label}")
    else:
        lines = [{"file_name": f"images/{n}.jpg", "label": ("cat", "dog")[n % 2]} for n in range(6)]
        text = "\n".join(map(json.dumps, lines))
    table(flat, text, f"metadata.{kind}")
    assert classes(stage_dataset(flat, out)[0]) == Counter(cat=3, dog=3)


def test_kaggles_folder_of_tables(flat: Path, out: Path) -> None:
    (flat / "images").rename(flat / "train")
    put(flat, "test/77.jpg", seed=77)
    table(flat, "image_id,label\n" + rows("{n}.jpg,{label}"), "train.csv")
    table(flat, "image_id,label\n77.jpg,\n", "sample_submission.csv")
    dataset, _ = stage_dataset(flat, out, max_rejected_share=0)
    assert classes(dataset) == Counter(cat=3, dog=3)
    assert "77.jpg" in other(out)


def test_a_staged_data_set_says_what_it_left_out(source: Path, out: Path) -> None:
    put(source, "cat/notes.txt", b"x")
    put(source, "@eaDir/a.jpg")
    stage_dataset(source, out)
    card = (out / "data_card.html").read_text()
    assert "1 other file(s)" in card and "at least one of every class that has two" in card
    assert open_dataset(out).counts


@pytest.mark.parametrize("folders", [("imgs",), ("part_1", "part_2")])
def test_folders_that_are_no_classes_beside_a_table(
    tmp_path: Path, out: Path, events: list[Event], folders: tuple[str, ...]
) -> None:
    """As HAM10000 comes: pictures in parts, the table has more columns than a path and a class."""
    lines = ["lesion_id,image_id,dx,age"]
    for n in range(12):
        put(tmp_path, f"source/{folders[n % len(folders)]}/ISIC_{n}.jpg", seed=n)
        lines.append(f"HAM_{n},ISIC_{n},{('nv', 'mel')[n % 3 == 0]},{n}")
    put(tmp_path, "source/HAM_metadata.csv", "\n".join(lines).encode())
    rules = Rules(table=TableRules(label_column="dx"))
    dataset, _ = stage_dataset(tmp_path / "source", out, rules=rules)
    assert classes(dataset) == Counter(nv=8, mel=4)
    if len(folders) > 1:
        stage_dataset(tmp_path / "source", tmp_path / "guessed")
        note = "classes are the folders, although HAM_metadata.csv lists the pictures"
        assert any(event.message.startswith(note) for event in events)


def test_one_folder_of_pictures_beside_a_table(tmp_path: Path, out: Path) -> None:
    text = "filename;class\n"
    for n in range(8):
        put(tmp_path, f"source/photos/{n}.jpg", seed=n)
        text += f"photos/{n}.jpg;{'ab'[n % 2]}\n"
    put(tmp_path, "source/labels.csv", text.encode())
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert classes(dataset) == Counter(a=4, b=4)


def test_no_two_classes_share_a_folder(tmp_path: Path, out: Path) -> None:
    names = ["a/b", "a%2Fb", "a%252Fb", ".a", "%2Ea", "100%", "100%25"]
    lines = ["path,label"]
    for n, name in enumerate(names * 2):
        put(tmp_path, f"source/{n}.jpg", seed=n)
        lines.append(f"{n}.jpg,{name}")
    put(tmp_path, "source/labels.csv", "\n".join(lines).encode())
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert classes(dataset) == Counter(dict.fromkeys(names, 2))
    folders = {path.parent.name for path in (out / "images" / "train").rglob("*.jpg")}
    assert len(folders) == len(names)


def test_a_class_folder_without_pictures_is_reported(
    source: Path, out: Path, events: list[Event]
) -> None:
    (source / "bird").mkdir()
    put(source, "owl/notes.txt", b"no picture yet")
    (source / "@eaDir").mkdir()
    (source / "loop").symlink_to("loop")
    stage_dataset(source, out)
    assert any("2 folder(s) without any picture (bird/, owl/)" in e.message for e in events)


def test_classes_that_differ_in_case_are_reported(
    tmp_path: Path, out: Path, events: list[Event]
) -> None:
    class_folders(tmp_path / "source", {"Cat": 2, "cat": 2, "dog": 2})
    stage_dataset(tmp_path / "source", out)
    assert any("differ only in the case of their letters: Cat, cat" in e.message for e in events)


@pytest.mark.parametrize("suffix", ["label", "class", "cls.txt", "class_name"])
def test_labels_of_shards_may_end_so(tmp_path: Path, out: Path, suffix: str) -> None:
    entries: list[tuple[str, bytes | str]] = []
    for n in range(8):
        entries += [
            (f"{n}.jpg", encode(draw(seed=n), "JPEG")),
            (f"{n}.{suffix}", (b"cat\n", b"dog")[n % 2]),
        ]
    (tmp_path / "s").mkdir()
    tar(tmp_path / "s/train-0.tar", *entries)
    dataset, _ = stage_dataset(tmp_path / "s", out)
    assert classes(dataset) == {"cat": 4, "dog": 4}
    assert set(dataset.counts) == {"train", "val"}  # as of folders, some of training validates


@pytest.mark.parametrize(
    ("entries", "end"),
    [
        ([], "pack.zip/CLASS/image files, or .* labels.csv. It is empty"),
        (
            [("0.jpg", encode(draw(), "JPEG")), ("0.txt", b"a cat")],
            "end in .txt; the class of KEY.jpg is read from KEY.cls",
        ),
        ([("more.zip", b"PK")], r"It holds archives \(more.zip\); unpack it and give the folder"),
    ],
    ids=["empty", "captions", "archives"],
)
def test_an_archive_without_labels_is_refused_by_its_own_name(
    tmp_path: Path, out: Path, entries: list[tuple[str, bytes]], end: str
) -> None:
    path = zipped(tmp_path / "pack.zip", *entries)
    with pytest.raises(DataError, match=f"^{path} has no class folders; .*{end}") as refused:
        stage_dataset(path, out)
    assert ".source" not in str(refused.value)


def test_a_validation_split_alone_is_refused(tmp_path: Path, out: Path) -> None:
    shard(tmp_path / "s/imagenet1k-validation-00.tar", 6)
    with pytest.raises(DataError, match="no picture is of the training split, all are of val; add"):
        stage_dataset(tmp_path / "s", out)


def test_a_table_without_a_head(flat: Path, out: Path) -> None:
    lines = rows("images/{n}.jpg,{label}")
    assert classes(stage_dataset(table(flat, lines), out)[0]) == Counter(cat=3, dog=3)
    with pytest.raises(DataError, match=r"no column 'label' .*column 2, column 3\); say which"):
        stage_dataset(table(flat, rows("images/{n}.jpg,{label},0.9")), out)


def test_kaggles_tables_beside_folders_with_the_same_names(flat: Path, out: Path) -> None:
    (flat / "images").rename(flat / "train")
    for n in range(6):
        put(flat, f"test/{n}.jpg", seed=10 + n)
    table(flat, "image,label\n" + rows("{n}.jpg,{label}"), "train.csv")
    table(flat, "image\n0.jpg\n", "test.csv")
    dataset, _ = stage_dataset(flat, out)
    assert classes(dataset) == Counter(cat=3, dog=3)
    staged = {path.read_bytes() for path in (out / "images").rglob("*.jpg")}
    assert staged == {path.read_bytes() for path in (flat / "train").iterdir()}


def test_a_row_whose_picture_is_missing_is_named(flat: Path, out: Path) -> None:
    text = "path,label\n" + rows("images/{n}.jpg,{label}") + "gone.jpg,cat\n"
    stage_dataset(table(flat, text), out, max_rejected_share=0.5)
    [row] = read_jsonl(out / "rejected.jsonl")
    assert row["reason"] == "line 8 of labels.csv has 'gone.jpg', which is not there"


# --- lists ---------------------------------------------------------------------------------------


def of_splits(**counts: int) -> Counter[tuple[str, str]]:
    return Counter({(split, name): n for split, n in counts.items() for name in ("cat", "dog")})


def list_of(label: str, numbers: Iterable[int] = range(6)) -> str:
    """Lines of ``PATH LABEL``, where a label may be a number."""
    names = ("cat", "dog")
    return "".join(
        f"images/{n}.jpg {label.format(number=n % 2, name=names[n % 2])}\n" for n in numbers
    )


LISTS: dict[str, tuple[dict[str, str], Counter[str]]] = {
    "names": ({"list.txt": list_of("{name}")}, Counter(cat=3, dog=3)),
    "names with spaces": ({"list.txt": list_of("a {name}")}, Counter({"a cat": 3, "a dog": 3})),
    "tabs": ({"list.txt": list_of("{name}").replace(" ", "\t")}, Counter(cat=3, dog=3)),
    "commas": ({"list.txt": list_of("{name}").replace(" ", ",")}, Counter(cat=3, dog=3)),
    "numbers": ({"list.txt": list_of("{number}")}, Counter({"0": 3, "1": 3})),
    "numbers with names": (
        {"list.txt": list_of("{number}"), "classes.txt": "cat\ndog\n"},
        Counter(cat=3, dog=3),
    ),
    "numbers with numbered names": (
        {"train_list.txt": list_of("{number}"), "label_list.txt": "0 cat\n1 a dog\n"},
        Counter({"cat": 3, "a dog": 3}),
    ),
    "fewer names than numbers": (
        {"list.txt": list_of("{number}"), "classes.txt": "cat\n"},
        Counter({"0": 3, "1": 3}),
    ),
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("given", ["folder", "list", "zip"])
def test_a_list_of_paths_and_classes(flat: Path, out: Path, kind: str, given: str) -> None:
    files, expected = LISTS[kind]
    for name, text in files.items():
        put(flat, name, text.encode())
    put(flat, "README.txt", b"Six pictures.\nTaken by nobody.\n")
    source = flat if given == "folder" else flat / next(iter(files))
    if given == "zip":
        source = Path(shutil.make_archive(str(flat.parent / "packed"), "zip", flat))
    assert classes(stage_dataset(source, out, max_rejected_share=0)[0]) == expected


@pytest.mark.parametrize("place", ["", "meta/"])
def test_lists_give_splits_and_folders_the_names_of_numbers(
    tmp_path: Path, out: Path, place: str
) -> None:
    """As lists for ImageNet are: classes are folders in training, and none in validation."""
    listed: dict[str, list[str]] = {"train": [], "val": []}
    for n in range(6):
        name = ("cat", "dog")[n % 2]
        put(tmp_path, f"source/train/{name}/{n}.jpg", seed=n)
        listed["train"].append(f"{name}/{n}.jpg {n % 2}")
    for n in range(4):
        put(tmp_path, f"source/val/v{n}.jpg", seed=10 + n)
        listed["val"].append(f"v{n}.jpg {n % 2}")
    for split, lines in listed.items():
        put(tmp_path, f"source/{place}{split}.txt", "\n".join(lines).encode())
    dataset, _ = stage_dataset(tmp_path / "source", out, max_rejected_share=0)
    assert pictures(dataset) == of_splits(train=3, val=2)


def test_lists_beside_class_folders_say_which_picture_is_of_which_split(
    tmp_path: Path, out: Path, events: list[Event]
) -> None:
    lines = []
    for n in range(8):
        name = f"{('cat', 'dog')[n % 2]}/{n}.jpg"
        put(tmp_path, f"source/{name}", seed=n)
        lines.append(f"{name} {n % 2}")
    put(tmp_path, "source/train.txt", "\n".join(lines[2:]).encode())
    put(tmp_path, "source/val.txt", "\n".join(lines[:2]).encode())
    dataset, _ = stage_dataset(tmp_path / "source", out)
    assert pictures(dataset) == of_splits(train=3, val=1)
    assert any("train.txt" in event.message for event in events)


def test_a_peers_list(tmp_path: Path, out: Path) -> None:
    """The one of MMPretrain's own tests: endings in any case, a class of pictures at two depths."""
    for seed, name in enumerate(("a/1.JPG", "b/2.jpeg", "b/subb/3.jpg")):
        put(tmp_path, f"source/{name}", seed=seed)
    put(tmp_path, "source/ann.txt", b"a/1.JPG 0\nb/2.jpeg 1\nb/subb/3.jpg 1\n")
    dataset, _ = stage_dataset(tmp_path / "source/ann.txt", out, max_rejected_share=0)
    assert classes(dataset) == Counter({"0": 1, "1": 2})


def test_what_is_no_list_is_refused_in_a_sentence(flat: Path, out: Path) -> None:
    for text, words in (
        (b"Some words about cats.\n", "its beginning names no picture"),
        (b"0.jpg is a cat\nbut this is none\n" * 9, "lists .* is not there|no label|could be used"),
        (b"A cat is on 0.jpg\n", "line 1 is not a picture's path and its class"),
    ):
        put(flat, "list.txt", text)
        with pytest.raises(DataError, match=words):
            stage_dataset(flat / "list.txt", out)
    put(flat, "list.txt", (list_of("{name}") + "images/7.jpg\n").encode())
    stage_dataset(flat / "list.txt", out, max_rejected_share=0.5)
    [row] = read_jsonl(out / "rejected.jsonl")
    assert row["reason"] == "line 7 of list.txt has no label"
