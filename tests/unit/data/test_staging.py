"""Staging: what gets in, what is set aside and why, and what a second staging does."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.data import placing, staging
from effnet_core.data.encoded import is_whole_png
from effnet_core.data.images import Checked, decode_image, to_rgb
from effnet_core.data.manifest import DATASET_NAME, MANIFEST_NAME, REJECTED_NAME, open_dataset
from effnet_core.data.staging import OTHER_NAME, stage_dataset
from effnet_core.errors import DataError, OutputExists
from effnet_core.events import Event
from effnet_core.system import files
from effnet_core.system.files import UNFINISHED, read_jsonl, sha256_of_file
from tests.support.images import class_folders, draw, encode, source_with_splits
from tests.unit.data.test_images import png_header


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes, four training and two validation images each."""
    return source_with_splits(tmp_path / "source", train=4, val=2, classes=("cat", "dog"))


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def other(out: Path) -> dict[str, str]:
    return {Path(row["path"]).name: row["reason"] for row in read_jsonl(out / OTHER_NAME)}


def reasons(out: Path) -> dict[str, str]:
    return {Path(row["path"]).name: row["reason"] for row in read_jsonl(out / REJECTED_NAME)}


# --- what gets in --------------------------------------------------------------------------------


def test_a_source_with_splits(source: Path, tmp_path: Path, events: list[Event]) -> None:
    dataset, reused = stage_dataset(source, tmp_path / "out")
    assert not reused
    assert dataset == open_dataset(tmp_path / "out")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.counts == {"train": 8, "val": 4}
    assert dataset.rejected == 0
    split = dataset.split("train")
    assert split.labels.tolist() == [0] * 4 + [1] * 4
    assert split.paths[0] == "images/train/cat/000.jpg"
    assert len(set(split.image_ids)) == 8
    assert all((split.root / path).is_file() for path in split.paths)
    assert events[-1].message.endswith("2 classes, 8 train, 4 val, 0 set aside")
    assert (events[-1].done, events[-1].total) == (12, 12)


def test_a_staged_file_has_the_bytes_of_its_source(source: Path, tmp_path: Path) -> None:
    dataset, _ = stage_dataset(source, tmp_path / "out")
    first = dataset.root / dataset.split("train").paths[0]
    assert sha256_of_file(first) == sha256_of_file(source / "train/cat/000.jpg")


def test_staging_is_deterministic(source: Path, tmp_path: Path) -> None:
    first, _ = stage_dataset(source, tmp_path / "a")
    second, _ = stage_dataset(source, tmp_path / "b")
    assert first.digest == second.digest
    assert (tmp_path / "a/manifest.parquet").read_bytes() == (
        tmp_path / "b/manifest.parquet"
    ).read_bytes()


def test_names_with_spaces_unicode_and_folders_inside_a_class(source: Path, tmp_path: Path) -> None:
    names = [
        "a b.jpg",
        "кошка 🐈.jpg",
        "deep/er/x.jpg",
        "deep/x.jpg",
        "UP.JPG",
        "no-suffix",
        "a\nb.png",
    ]
    for index, name in enumerate(names):
        put(source / "train/cat", name, encode(draw(seed=900 + index), "JPEG"))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.counts["train"] == 8 + len(names)
    paths = dataset.split("train").paths
    assert {f"images/train/cat/{name}" for name in names} <= set(paths)


def test_hidden_files_and_folders_do_not_exist(source: Path, tmp_path: Path) -> None:
    put(source / "train/cat", ".DS_Store", b"junk")
    put(source / "train/cat/.thumbs", "a.jpg", encode(draw(), "JPEG"))
    put(source / "train/.git", "config", b"junk")
    put(source / "train", "README.md", b"not a class folder")
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.counts["train"] == 8
    assert dataset.rejected == 0
    assert dataset.class_names == ("cat", "dog")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PPM"])
def test_what_the_training_decoder_does_not_read_alike_is_re_encoded(
    source: Path, tmp_path: Path, format: str
) -> None:
    path = put(source / "train/cat", f"odd.{format.lower()}", encode(draw(seed=7), format))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    staged = dataset.root / f"images/train/cat/{path.name}.converted.png"
    assert f"images/train/cat/{staged.name}" in dataset.split("train").paths
    with Image.open(staged) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (40, 32))


def test_a_turned_photo_is_staged_upright(source: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    put(source / "train/cat", "phone.jpg", encode(draw(), "JPEG", exif=exif.tobytes()))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    with Image.open(dataset.root / "images/train/cat/phone.jpg.converted.png") as image:
        assert image.size == (32, 40)
        assert 0x0112 not in image.getexif()


def test_a_converted_file_does_not_meet_another_of_its_name(source: Path, tmp_path: Path) -> None:
    put(source / "train/cat", "x.gif", encode(draw(seed=1), "GIF"))
    put(source / "train/cat", "x.gif.png", encode(draw(seed=2), "PNG"))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    paths = dataset.split("train").paths
    assert len(paths) == len(set(paths)) == 10


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_png_modes_stay_as_they_are(source: Path, tmp_path: Path, mode: str) -> None:
    path = put(source / "train/cat", "odd.png", encode(draw().convert(mode), "PNG"))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert (dataset.root / "images/train/cat/odd.png").read_bytes() == path.read_bytes()


def test_cmyk_is_an_image(source: Path, tmp_path: Path) -> None:
    put(source / "train/cat", "print.jpg", encode(draw().convert("CMYK"), "JPEG"))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.counts["train"] == 9


def without_its_end(content: bytes) -> bytes:
    return content[:-3]


def with_a_wrong_checksum(content: bytes) -> bytes:
    """Of the pixels."""
    end = content.index(b"IEND") - 8
    return content[:end] + bytes(4) + content[end + 4 :]


@pytest.mark.parametrize("damage", [without_its_end, with_a_wrong_checksum])
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "LA", "1"])
def test_a_png_that_training_would_refuse_is_re_encoded(
    source: Path, tmp_path: Path, mode: str, damage: Callable[[bytes], bytes]
) -> None:
    whole = encode(draw().convert(mode))
    put(source / "train/cat", "odd.png", damage(whole))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.counts["train"] == 9
    staged = (tmp_path / "out/images/train/cat/odd.png.converted.png").read_bytes()
    assert is_whole_png(staged)
    for background in ((9, 90, 200), None):
        assert np.array_equal(
            np.asarray(to_rgb(decode_image(staged), background)),
            np.asarray(to_rgb(decode_image(whole), background)),
        )


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF"])
def test_what_is_re_encoded_keeps_its_transparency(
    source: Path, tmp_path: Path, format: str
) -> None:
    image = Image.new("RGBA", (40, 32), (0, 0, 0, 0))
    image.paste((200, 0, 0, 255), (10, 10, 20, 20))
    path = put(source / "train/cat", f"x.{format.lower()}", encode(image, format))
    stage_dataset(source, tmp_path / "out")
    staged = (tmp_path / f"out/images/train/cat/{path.name}.converted.png").read_bytes()
    assert to_rgb(decode_image(staged), (7, 8, 9)).getpixel((1, 1)) == (7, 8, 9)


def test_pictures_of_one_colour_are_reported(
    source: Path, tmp_path: Path, events: list[Event]
) -> None:
    drawing = Image.new("RGBA", (40, 32), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (17, 9, 19, 11))
    put(source / "train/cat", "black on nothing.png", encode(drawing))
    put(source / "train/cat", "grey.jpg", encode(Image.new("RGB", (40, 32), "grey"), "JPEG"))
    stage_dataset(source, tmp_path / "out")
    [told] = [e.message for e in events if "of one colour" in e.message]
    assert "1 image(s) are of one colour after decoding" in told
    assert "images/train/cat/grey.jpg" in told and told.removeprefix("warning: ") in (
        tmp_path / "out/data_card.html"
    ).read_text().replace("&#39;", "'")
    stage_dataset(source, tmp_path / "black", background=(0, 0, 0))
    assert "2 image(s) are of one colour" in events[-2].message


# --- what is set aside ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_bad_files_are_set_aside_with_their_reasons(source: Path, tmp_path: Path) -> None:
    jpeg = encode(draw(), "JPEG")
    folder = source / "train/cat"
    put(folder, "truncated.jpg", jpeg[:-200])
    put(folder, "header-only.jpg", jpeg[:150])
    put(folder, "empty.jpg", b"")
    put(folder, "text.jpg", b"this is no picture")
    put(folder, "notes.txt", b"remember the milk")
    put(folder, "bomb.png", png_header(50_000, 50_000))
    put(folder, "big.png", png_header(11_000, 9_000))  # Pillow only warns of this one
    put(folder, "strip.png", png_header(1, 90_000))
    dataset, _ = stage_dataset(source, tmp_path / "out", max_rejected_share=0.9)
    assert dataset.rejected == 7
    assert dataset.counts == {"train": 8, "val": 4}
    found = reasons(tmp_path / "out")
    assert found.pop("bomb.png").startswith("too large: ")
    assert found.pop("big.png")
    assert found == {
        "truncated.jpg": "truncated",
        "header-only.jpg": "truncated",
        "empty.jpg": "empty file",
        "text.jpg": "not an image",
        "strip.png": "too narrow: 1x90000 px, more than 100 to 1",
    }


def test_a_name_that_is_not_utf8_is_set_aside(source: Path, tmp_path: Path) -> None:
    bad = os.fsencode(source / "train/cat") + b"/caf\xe9.jpg"
    Path(os.fsdecode(bad)).write_bytes(encode(draw(), "JPEG"))
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.counts["train"] == 8
    rows = read_jsonl(tmp_path / "out" / REJECTED_NAME)
    assert [row["reason"] for row in rows] == ["file name is not valid UTF-8"]
    assert os.fsencode(rows[0]["path"]) == bad
    assert stage_dataset(source, tmp_path / "out")[1]


def test_too_many_bad_files_are_refused_with_the_share(source: Path, tmp_path: Path) -> None:
    for index in range(3):
        put(source / "train/cat", f"bad{index}.jpg", b"")
    with pytest.raises(DataError) as caught:
        stage_dataset(source, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("3 of 15 files (20.0%) cannot be used, more than the allowed 10.0%")
    assert "--max-rejected-share" in message
    assert "bad0.jpg: empty file" in message
    dataset, _ = stage_dataset(source, tmp_path / "out", max_rejected_share=0.2)
    assert dataset.rejected == 3


def test_nothing_usable_is_refused_whatever_the_share(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        put(tmp_path / "source" / name, "a.jpg", b"")
    with pytest.raises(DataError, match=r"2 of 2 files \(100.0%\) cannot be used"):
        stage_dataset(tmp_path / "source", tmp_path / "out", max_rejected_share=1.0)


# --- sources that cannot be staged ---------------------------------------------------------------


def test_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder .*nowhere does not exist"):
        stage_dataset(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_without_class_folders(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(DataError, match=r"has no class folders; expected .*/CLASS/image files"):
        stage_dataset(source, tmp_path / "out")
    put(source, "a.jpg", encode(draw(), "JPEG"))
    with pytest.raises(DataError, match="has no class folders"):
        stage_dataset(source, tmp_path / "out")


def test_a_folder_without_images_is_not_a_class(source: Path, tmp_path: Path) -> None:
    (source / "train/emu").mkdir()
    put(source / "train/annotations", "000.xml", b"<xml/>")
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.class_names == ("cat", "dog")
    assert other(tmp_path / "out") == {"000.xml": "not a picture (.xml)"}


def test_a_class_whose_images_are_all_bad(source: Path, tmp_path: Path) -> None:
    put(source / "train/emu", "a.jpg", b"")
    with pytest.raises(DataError, match=r"1 class\(es\) have no usable training image: emu"):
        stage_dataset(source, tmp_path / "out")


def test_a_validation_class_that_training_does_not_know(source: Path, tmp_path: Path) -> None:
    put(source / "val/emu", "a.jpg", encode(draw(), "JPEG"))
    with pytest.raises(DataError, match=r"1 class\(es\) have no usable training image: emu"):
        stage_dataset(source, tmp_path / "out")


def test_a_class_without_validation_images_keeps_its_label(source: Path, tmp_path: Path) -> None:
    """MindSpore's own folder reader would number validation classes anew."""
    shutil.rmtree(source / "val/cat")
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.split("val").labels.tolist() == [1, 1]


def test_a_single_class(tmp_path: Path) -> None:
    class_folders(tmp_path / "source", {"cat": 3})
    with pytest.raises(DataError, match="only one class, 'cat'"):
        stage_dataset(tmp_path / "source", tmp_path / "out", val_share=0)


def test_a_part_of_train_becomes_val_where_there_is_none(
    source: Path, tmp_path: Path, events: list[Event]
) -> None:
    shutil.rmtree(source / "val")
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert sum(dataset.counts.values()) == 8 and dataset.counts["val"] >= 2
    assert any("there is no validation split" in event.message for event in events)


# --- the split of a source without splits --------------------------------------------------------


@pytest.fixture
def unsplit(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "unsplit", {"cat": 30, "dog": 30}, width=20, height=16)


def sides(out: Path) -> dict[str, str]:
    dataset = open_dataset(out)
    return {
        path.split("/", 2)[2]: split
        for split in dataset.counts
        for path in dataset.split(split).paths
    }


def test_adding_images_never_moves_one_to_the_other_side(unsplit: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stage_dataset(unsplit, out)
    before = sides(out)
    assert 4 <= sum(side == "val" for side in before.values()) <= 22  # a fifth of 60, roughly
    class_folders(unsplit, {"ant": 30}, seed=5000)
    stage_dataset(unsplit, out)
    after = sides(out)
    assert len(after) == 90
    assert all(after[name] == side for name, side in before.items())


def test_a_copy_of_an_image_is_on_the_same_side(unsplit: Path, tmp_path: Path) -> None:
    for path in sorted((unsplit / "cat").glob("*.jpg")):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    stage_dataset(unsplit, tmp_path / "out")
    found = sides(tmp_path / "out")
    for name, side in found.items():
        if name.startswith("cat/copy-"):
            assert found[name.replace("copy-", "")] == side


def test_seed_and_share_decide_the_split(unsplit: Path, tmp_path: Path) -> None:
    stage_dataset(unsplit, tmp_path / "a")
    stage_dataset(unsplit, tmp_path / "b", seed=1)
    stage_dataset(unsplit, tmp_path / "c", val_share=0.5)
    assert sides(tmp_path / "a") != sides(tmp_path / "b")
    count = {name: list(sides(tmp_path / name).values()).count("val") for name in "ac"}
    assert count["c"] > count["a"]


# --- staging again -------------------------------------------------------------------------------


def test_a_second_staging_does_nothing_and_says_so(
    source: Path, tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = stage_dataset(source, tmp_path / "out")
    monkeypatch.setattr(staging, "look_into", None)  # would be called for every file
    events.clear()
    second, reused = stage_dataset(source, tmp_path / "out")
    assert reused
    assert second == first
    assert [event.message for event in events] == [
        f"staging: {tmp_path / 'out'} is up to date, 2 classes, 8 train, 4 val, 0 set aside"
    ]


def test_a_stricter_limit_holds_for_a_data_set_that_is_there_already(
    source: Path, tmp_path: Path
) -> None:
    put(source / "train/cat", "bad.jpg", b"")
    stage_dataset(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"1 of 13 files \(7.7%\) cannot be used, more than"):
        stage_dataset(source, tmp_path / "out", max_rejected_share=0.05)
    assert stage_dataset(source, tmp_path / "out")[1]


def test_a_changed_source_is_staged_anew_and_strays_are_removed(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, _ = stage_dataset(source, out)
    (source / "train/cat/000.jpg").unlink()
    put(source / "train/cat", "001.jpg", encode(draw(seed=77), "JPEG"))
    put(source / "train/dog", "new.jpg", encode(draw(seed=78), "JPEG"))
    second, reused = stage_dataset(source, out)
    assert not reused
    assert second.digest != first.digest
    assert second.counts == {"train": 8, "val": 4}
    assert not (out / "images/train/cat/000.jpg").exists()
    assert sha256_of_file(out / "images/train/cat/001.jpg") == sha256_of_file(
        source / "train/cat/001.jpg"
    )


def test_a_class_that_went_away_leaves_no_folder(source: Path, tmp_path: Path) -> None:
    class_folders(source / "train", {"emu": 2})
    stage_dataset(source, tmp_path / "out")
    shutil.rmtree(source / "train/emu")
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert dataset.class_names == ("cat", "dog")
    assert not (tmp_path / "out/images/train/emu").exists()


def test_a_staged_file_that_was_lost_comes_back(source: Path, tmp_path: Path) -> None:
    first, _ = stage_dataset(source, tmp_path / "out")
    lost = tmp_path / "out/images/val/dog/001.jpg"
    lost.unlink()
    second, reused = stage_dataset(source, tmp_path / "out")
    assert not reused
    assert lost.is_file()
    assert second.digest == first.digest


def test_a_staged_file_that_a_power_cut_emptied_comes_back(source: Path, tmp_path: Path) -> None:
    stage_dataset(source, tmp_path / "out")
    emptied = tmp_path / "out" / "images" / "train" / "cat" / "000.jpg"
    emptied.write_bytes(b"")
    _, reused = stage_dataset(source, tmp_path / "out")
    assert not reused
    assert emptied.read_bytes() == (source / "train" / "cat" / "000.jpg").read_bytes()


def test_staging_that_was_interrupted_is_done_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging, "write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            stage_dataset(source, out)
    assert json.loads((out / DATASET_NAME).read_text()) == {"complete": False}
    with pytest.raises(DataError, match="was not finished; run the same effnet stage again"):
        open_dataset(out)
    dataset, reused = stage_dataset(source, out)
    assert not reused
    assert dataset.counts == {"train": 8, "val": 4}


# --- where it may go -----------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [".", "out", "train/cat/out"])
def test_the_output_may_not_lie_inside_the_source(source: Path, inner: str) -> None:
    before = sorted(source.rglob("*"))
    with pytest.raises(DataError, match="lies inside the source"):
        stage_dataset(source, source / inner)
    assert sorted(source.rglob("*")) == before


def test_a_foreign_folder_is_refused(source: Path, tmp_path: Path) -> None:
    precious = put(tmp_path / "out", "thesis.txt", b"years of work")
    with pytest.raises(OutputExists, match="already holds files that are not ours"):
        stage_dataset(source, tmp_path / "out")
    assert precious.read_bytes() == b"years of work"
    assert list((tmp_path / "out").iterdir()) == [precious]


def test_an_output_that_is_a_file(source: Path, tmp_path: Path) -> None:
    put(tmp_path, "out", b"")
    with pytest.raises(DataError, match="cannot be written to"):
        stage_dataset(source, tmp_path / "out")


def test_a_full_disk_is_said_in_words(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun = os.write, threading.Semaphore(2)

    def full(handle: int, content: bytes | memoryview) -> int:
        if begun.acquire(blocking=False):
            return write(handle, content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DataError, match=r"staging into .* failed: no space left on device"):
            stage_dataset(source, tmp_path / "out")
    assert not list((tmp_path / "out" / "images").rglob("*.jpg"))
    assert stage_dataset(source, tmp_path / "out")[0].counts == {"train": 8, "val": 4}


def test_half_a_file_of_a_killed_staging_is_replaced(source: Path, tmp_path: Path) -> None:
    whole = (source / "train/cat/000.jpg").read_bytes()
    put(tmp_path / "out/images/train/cat", "000.jpg", whole[:100])
    put(tmp_path / "out", "dataset.json", b'{"complete": false}')
    stage_dataset(source, tmp_path / "out")
    assert (tmp_path / "out/images/train/cat/000.jpg").read_bytes() == whole


def test_a_staged_file_does_not_change_with_its_source(source: Path, tmp_path: Path) -> None:
    dataset, _ = stage_dataset(source, tmp_path / "out")
    original = source / "train" / "cat" / "000.jpg"
    staged = dataset.root / "images" / "train" / "cat" / "000.jpg"
    before = staged.read_bytes()
    with original.open("r+b") as stream:
        stream.write(b"changed")
    assert staged.read_bytes() == before


def test_what_was_looked_at_is_what_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes after it was read, as while a camera or a sync writes to the folder."""
    check = placing.check_image

    sides = itertools.count(60)

    def check_and_change(content: bytes, **options: int) -> Checked:
        other = encode(draw(next(sides), 60), "jpeg")
        for path in source.rglob("*.jpg"):
            path.write_bytes(other)
        return check(content, **options)

    monkeypatch.setattr(placing, "check_image", check_and_change)
    monkeypatch.setattr(staging, "available_cores", lambda: [0])
    dataset, _ = stage_dataset(source, tmp_path / "out")
    rows = pq.read_table(dataset.root / MANIFEST_NAME).to_pylist()
    assert len(rows) == 12
    for row in rows:
        assert sha256_of_file(dataset.root / row["path"]) == row["sha256"]
        assert (dataset.root / row["path"]).stat().st_size == row["size_bytes"]


@pytest.mark.costly
def test_hard_links_only_where_they_are_asked_for(source: Path, tmp_path: Path) -> None:
    def links(*options: str) -> int:
        arguments = ["stage", str(source), "--out", str(tmp_path / "out"), *options]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        return (tmp_path / "out" / "images" / "train" / "cat" / "000.jpg").stat().st_nlink

    assert links() == 1
    shutil.rmtree(tmp_path / "out")
    assert links("-o", "data.hard_links=true") == 2


def test_links_of_an_earlier_staging_become_copies(source: Path, tmp_path: Path) -> None:
    stage_dataset(source, tmp_path / "out", hard_links=True)
    put(source, "train/cat/new.jpg", encode(draw(64, 48), "jpeg"))
    stage_dataset(source, tmp_path / "out")
    staged = (tmp_path / "out" / "images").rglob("*.jpg")
    assert {path.stat().st_nlink for path in staged} == {1}


def test_a_clone_with_other_bytes_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system shares blocks, the source may have changed before they were shared."""
    cloned: list[Path] = []

    def clone(original: Path, target: Path) -> bool:
        cloned.append(original)
        content = original.read_bytes()
        target.write_bytes(content + b"more" * (len(cloned) % 2))
        return True

    monkeypatch.setattr(placing, "clone", clone)
    dataset, _ = stage_dataset(source, tmp_path / "out")
    assert len(cloned) == 12
    for row in pq.read_table(dataset.root / MANIFEST_NAME).to_pylist():
        assert sha256_of_file(dataset.root / row["path"]) == row["sha256"]


def test_what_was_unpacked_is_not_copied_again(source: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), "tar", source)
    with mock.patch.object(placing, "link_or_copy", side_effect=placing.link_or_copy) as link:
        dataset, _ = stage_dataset(archive, tmp_path / "out")
    assert link.call_count == 12
    staged = dataset.root / dataset.split("train").paths[0]
    assert staged.stat().st_nlink == 1


def test_copies_that_do_not_fit_are_refused_before_the_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in source.rglob("*.jpg"))
    usage = shutil.disk_usage(tmp_path)._replace(free=files.RESERVE_BYTES + size - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=f"copying {source} needs .* free"):
        stage_dataset(source, tmp_path / "out")
    assert not (tmp_path / "out" / "images").exists()
    stage_dataset(source, tmp_path / "out", hard_links=True)


def test_where_hard_links_are_refused_files_are_copied(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr("os.link", refuse)
    dataset, _ = stage_dataset(source, tmp_path / "out", hard_links=True)
    staged = dataset.root / dataset.split("train").paths[0]
    assert staged.stat().st_nlink == 1
    assert decode_image(staged.read_bytes()).size == (40, 32)


def test_hidden_files_of_others_are_kept(tmp_path: Path) -> None:
    source, out = class_folders(tmp_path / "source", {"cat": 4, "dog": 4}), tmp_path / "out"
    out.mkdir()
    kept = [out / ".notes.json.20231105", out / ".dataset.json.NOTOURS1"]
    for path in kept:
        path.write_text("mine")
    with pytest.raises(OutputExists):
        stage_dataset(source, out)
    assert [path.read_text() for path in kept] == ["mine", "mine"]


@pytest.mark.parametrize("staged_before", [False, True])
def test_what_a_killed_staging_was_writing_is_removed(staged_before: bool, tmp_path: Path) -> None:
    source, out = class_folders(tmp_path / "source", {"cat": 4, "dog": 4}), tmp_path / "out"
    if staged_before:
        stage_dataset(source, out)
    out.mkdir(exist_ok=True)
    for name in ("dataset.json", "rejected.jsonl", "data_card.html"):
        (out / f".{name}.a1b2c3d4{UNFINISHED}").write_text("half")
    stage_dataset(source, out)
    assert not [path.name for path in out.rglob(".*")]


def test_a_file_that_is_called_as_another_one_re_encoded(tmp_path: Path) -> None:
    """As where people copy pictures back from a staged data set."""
    source = class_folders(tmp_path / "source", {"cat": 2, "dog": 2})
    put(source, "cat/a.gif", encode(draw(seed=70), "GIF"))
    put(source, "cat/a.gif.converted.png", encode(draw(seed=71)))
    dataset, _ = stage_dataset(source, tmp_path / "out", val_share=0)
    paths = dataset.split("train").paths
    assert len(set(paths)) == len(paths) == 6
    for row in pq.read_table(dataset.root / MANIFEST_NAME).to_pylist():
        assert sha256_of_file(dataset.root / row["path"]) == row["sha256"]
