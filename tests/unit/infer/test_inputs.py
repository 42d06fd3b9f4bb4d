"""What there is to label: folders, files, patterns and lists."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from effnet_core.config.schema import StorageConfig
from effnet_core.data.images import ImageProblem
from effnet_core.errors import DataError, InputLost, OutputExists
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.readers import FolderReader, open_reader

OUT = Path("/nowhere/out")


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "in", ["b.jpg", "a/z.jpg", "a/b/c.jpg", ".hidden", ".git/x", "a/.y"])


def test_a_folder_is_listed_in_order_at_any_depth_without_hidden_files(folder: Path) -> None:
    found = list_inputs([folder], OUT)
    assert found.paths == ("a/b/c.jpg", "a/z.jpg", "b.jpg")
    assert found.root == str(folder)
    source = open_reader(found.root, StorageConfig())
    assert [source.read(path) for path in found.paths] == [path.encode() for path in found.paths]


def test_folders_inside_count_only_where_they_should(folder: Path) -> None:
    assert list_inputs([folder], OUT, recursive=False).paths == ("b.jpg",)


def test_linked_folders_are_followed_once_and_loops_end(folder: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", ["photo.jpg"])
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "dangling.jpg").symlink_to("nothing")
    found = list_inputs([folder], OUT).paths
    assert found == ("a/b/c.jpg", "a/z.jpg", "b.jpg", "dangling.jpg", "link/photo.jpg")
    with pytest.raises(ImageProblem, match="no such file"):
        FolderReader(folder).read("dangling.jpg")


def test_a_stamp_changes_with_the_file(folder: Path) -> None:
    before = list_inputs([folder], OUT).stamps
    (folder / "b.jpg").write_bytes(b"something else")
    after = list_inputs([folder], OUT).stamps
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False]


def test_files_are_taken_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path, ["a/1.jpg", "b/2.jpg"])
    files = [tmp_path / "b/2.jpg", tmp_path / "a/1.jpg", tmp_path / "b/2.jpg"]
    found = list_inputs(files, OUT)
    assert (found.root, found.paths) == (str(tmp_path), ("a/1.jpg", "b/2.jpg"))


def test_a_pattern(folder: Path) -> None:
    assert list_inputs([str(folder / "**" / "*.jpg")], OUT).paths == (
        "a/b/c.jpg",
        "a/z.jpg",
        "b.jpg",
    )
    assert list_inputs([str(folder / "a" / "?.jpg")], OUT).paths == ("z.jpg",)
    odd = fill(folder / "odd", ["[1].jpg"])
    assert list_inputs([odd / "[1].jpg"], OUT).paths == ("[1].jpg",)  # a file, not a pattern
    with pytest.raises(DataError, match="no file fits the pattern"):
        list_inputs([str(folder / "*.gif")], OUT)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_a_list_keeps_its_order(folder: Path, suffix: str) -> None:
    paths = ["b.jpg", str(folder / "a/b/c.jpg"), "./a/z.jpg", "gone.jpg"]
    file = folder / f"list{suffix}"
    if suffix == ".txt":
        file.write_text("\n".join(paths) + "\n\n")
    elif suffix == ".csv":
        file.write_text("label,path\n" + "".join(f"cat,{path}\n" for path in paths))
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps({"path": path}) + "\n" for path in paths))
    else:
        pq.write_table(pa.table({"path": paths}), file)
    found = list_inputs([file], OUT)
    assert found.root == str(folder)
    assert found.paths == ("b.jpg", "a/b/c.jpg", "a/z.jpg", "gone.jpg")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "a,b\nx.jpg,1\n", "no column 'path'"),
        ("a.jsonl", "no json\n", "is not a table"),
        ("b.jsonl", '{"fil": "x.jpg"}\n', "no column 'path'"),
        ("c.jsonl", "[1]\n", "is not a table"),
        ("d.jsonl", '{"path": "x.jpg"}\n{"path": 3}\n', r"entry 2 of list .* is not a path: 3"),
        ("e.jsonl", '{"path": "x\\u0000"}\n', "entry 1 of list .* is not a path"),
        ("b.csv", "label,path\ncat\n", "entry 1 of list .* is not a path: None"),
        ("a.parquet", "no parquet", "is not a table"),
        ("a.txt", "\n", "names no files"),
        ("b.txt", "x.jpg\ny.jpg\nx.jpg\n", "names .*x.jpg more than once"),
        ("c.txt", "x.jpg\n./x.jpg\n", "names .*x.jpg more than once"),
        ("d.txt", "s3://b/x.jpg\ny.jpg\n", "names objects such as s3://b/x.jpg and files"),
        ("e.txt", "s3://b/x.jpg\ns3://b/x.jpg\n", "names x.jpg more than once"),
    ],
)
def test_lists_that_cannot_be_used(name: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        list_inputs([tmp_path / name], OUT)


def test_a_list_from_another_system(folder: Path) -> None:
    (folder / "LIST.TXT").write_bytes(b"\xef\xbb\xbfb.jpg\r\na/z.jpg\r\n")
    assert list_inputs([folder / "LIST.TXT"], OUT).paths == ("b.jpg", "a/z.jpg")


def test_a_list_may_name_objects(folder: Path) -> None:
    names = ["s3://one/photos/b.jpg", "s3://one/photos/a/z.jpg"]
    (folder / "one.txt").write_text("\n".join(names))
    found = list_inputs([folder / "one.txt"], OUT)
    assert (found.root, found.paths) == ("s3://one/photos/", ("b.jpg", "a/z.jpg"))
    (folder / "two.txt").write_text("\n".join([*names, "s3://two/c.jpg"]))
    found = list_inputs([folder / "two.txt"], OUT)
    assert [found.root + path for path in found.paths] == [*names, "s3://two/c.jpg"]


def test_a_folder_in_a_list_is_no_file(folder: Path) -> None:
    (folder / "list.txt").write_text("a\nb.jpg\n")
    found = list_inputs([folder / "list.txt"], OUT)
    with pytest.raises(ImageProblem, match="a folder, not a file"):
        FolderReader(Path(found.root)).read("a")


def test_a_folder_that_has_gone_is_no_matter_of_one_file(folder: Path) -> None:
    source = FolderReader(folder)
    (folder / "b.jpg").unlink()
    with pytest.raises(ImageProblem, match="no such file"):
        source.read("b.jpg")
    for emptied in (True, False):  # what an unmounted share leaves, and what a removed folder does
        shutil.rmtree(folder)
        if emptied:
            folder.mkdir()
        with pytest.raises(
            InputLost, match=r"has gone while it was read \(.*bring it back"
        ) as lost:
            source.read("a/z.jpg")
        assert lost.value.retryable


def test_inputs_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_inputs([tmp_path / "nowhere"], OUT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no files"):
        list_inputs([tmp_path / "empty"], OUT)
    with pytest.raises(DataError, match="give one folder or several files, not 2"):
        list_inputs([folder, folder / "b.jpg"], OUT)


@pytest.mark.parametrize("inner", [".", "out", "a/b/out"])
def test_the_output_may_not_lie_inside_the_input(folder: Path, inner: str) -> None:
    with pytest.raises(OutputExists, match="lies inside the input folder"):
        list_inputs([folder], folder / inner)


def test_a_folder_that_cannot_be_listed_is_named(folder: Path) -> None:
    """The file system refuses root nothing, so the refusal is staged where the listing meets it."""
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effnet_core.storage.folders.os.scandir", scandir)
        assert list_inputs([folder], OUT).paths == ("a", "b.jpg")
        with pytest.raises(ImageProblem, match="folder that cannot be listed"):
            FolderReader(folder).read("a")


OTHERS = {
    "notes.txt": b"x",
    "sound.ogg": b"OggS",
    "Thumbs.db": b"\xd0\xcf",
    "IMG.AAE": b"<?xml",
    "no-suffix": b"text",
    "IMG.CR2": b"II*\0",
}
LEFT_OUT = ("@eaDir/a.jpg", "__MACOSX/._b.jpg", "a/._z.jpg", "$RECYCLE.BIN/c.jpg", "#recycle/d.jpg")


def test_what_is_not_a_picture_is_listed_apart(folder: Path) -> None:
    for name, content in OTHERS.items():
        (folder / name).write_bytes(content)
    fill(folder, list(LEFT_OUT))
    (folder / "photo").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = list_inputs([folder], OUT)
    assert found.paths == ("a/b/c.jpg", "a/z.jpg", "b.jpg", "photo")
    assert sorted(path for path, _ in found.other) == sorted(OTHERS)
    assert {path.partition("/")[0] for path, _ in found.left_out} >= {"@eaDir", "__MACOSX"}
    by_pattern = list_inputs([str(folder / "**" / "*")], OUT)
    assert by_pattern.paths == found.paths
    assert sorted(path for path, _ in by_pattern.other) == sorted(OTHERS)


def test_a_folder_or_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"has no files that are pictures but 1 other file\(s\)"):
        list_inputs([tmp_path], OUT)
    with pytest.raises(DataError, match=r"notes.md is not a picture \(.md\); give pictures"):
        list_inputs([tmp_path / "notes.md"], OUT)


def test_a_link_to_itself_costs_one_file(folder: Path) -> None:
    (folder / "self").symlink_to("self")
    (folder / "self.jpg").symlink_to("self.jpg")
    found = list_inputs([folder], OUT)
    assert found.paths == ("a/b/c.jpg", "a/z.jpg", "b.jpg", "self", "self.jpg")
    with pytest.raises(ImageProblem, match="too many levels"):
        FolderReader(folder).read("self.jpg")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("Image;x\nb.jpg;1\na/z.jpg;2\n", "utf-8"), ("file_name\tx\nb.jpg\t1\na/z.jpg\t2", "utf-16")],
)
def test_tables_of_other_programs(folder: Path, text: str, encoding: str) -> None:
    (folder / "list.csv").write_bytes(text.encode(encoding))
    assert list_inputs([folder / "list.csv"], OUT).paths == ("b.jpg", "a/z.jpg")
