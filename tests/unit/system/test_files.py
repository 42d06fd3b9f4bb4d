"""Files that are either whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from effnet_core import text
from effnet_core.errors import ConfigError, DataError, OutputExists
from effnet_core.storage.local import LocalStore
from effnet_core.system import files
from effnet_core.system.files import make_folder

ODD_TEXT = 'a,b "c"\n\r\t\u2028\u2029\x85\x0b\x1c ü 🐈 \\ \udce9'


def test_digests(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * (files.CHUNK_BYTES + 1))
    assert files.sha256_of_file(path) == hashlib.sha256(b"x" * (files.CHUNK_BYTES + 1)).hexdigest()
    assert files.sha256_of_text("ab", "c") != files.sha256_of_text("a", "bc")
    assert files.sha256_of_text("caf\udce9")


def test_atomic_path_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "f.txt"
    with files.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert not path.exists()
        temporary.write_text("one")
    with files.atomic_path(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_new_files_have_the_rights_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "f", "text")
        store = LocalStore(tmp_path / "store")
        store.put_bytes("key", b"bytes")
    finally:
        os.umask(before)
    for path in (tmp_path / "f", tmp_path / "store" / "key"):
        assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_atomic_path_leaves_nothing_after_an_error(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old")
    with pytest.raises(type(error)), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_survives_a_block_that_removes_its_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "f") as temporary:
        temporary.unlink()
    assert list(tmp_path.iterdir()) == []


def test_content_reaches_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "f", []
    monkeypatch.setattr("os.fsync", lambda _: seen.append(path.exists()))
    with files.atomic_path(path) as temporary:
        temporary.write_text("x")
    assert seen == [False]


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"text": ODD_TEXT, "list": [1, 2.5, None, True], "nested": {"ü": {}}}
    files.write_json(tmp_path / "v.json", value)
    assert files.read_json(tmp_path / "v.json") == value
    assert (tmp_path / "v.json").read_bytes().endswith(b"}\n")


def test_reading_json_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"v\.json does not exist"):
        files.read_json(tmp_path / "v.json")
    (tmp_path / "v.json").write_text('{"a":')
    with pytest.raises(DataError, match=r"v\.json is not valid JSON"):
        files.read_json(tmp_path / "v.json")


def test_json_lines_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": ODD_TEXT}, {"n": 1}, {"text": "\u2028"}]
    assert files.read_jsonl(path) == []
    for row in rows:
        files.append_jsonl(path, row)
    assert files.read_jsonl(path) == rows


@pytest.mark.parametrize("tail", [b'{"n": 2', '{"text": "ü'.encode()[:-1], b"\n"])
def test_a_line_cut_while_being_written_is_left_out(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, {"n": 1})
    with path.open("ab") as stream:
        stream.write(tail)
    assert files.read_jsonl(path) == [{"n": 1}]


def test_link_or_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_text("x")
    files.link_or_copy(source, tmp_path / "a" / "linked")
    assert (tmp_path / "a/linked").samefile(source)

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr("os.link", refuse)
    files.link_or_copy(source, tmp_path / "a" / "copied")
    assert (tmp_path / "a/copied").read_text() == "x"
    assert not (tmp_path / "a/copied").samefile(source)


def test_make_folder(tmp_path: Path) -> None:
    assert files.make_folder(tmp_path / "a" / "b", what="run folder") == tmp_path / "a" / "b"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as caught:
        files.make_folder(tmp_path / "file", what="run folder")
    assert str(caught.value) == (
        f"run folder {tmp_path / 'file'} cannot be written to (file exists); "
        "choose another folder or mend its rights"
    )


def test_require_empty_or_own(tmp_path: Path) -> None:
    files.require_empty_or_own(tmp_path / "absent", "mark", what="folder")
    files.require_empty_or_own(tmp_path, "mark", what="folder")
    (tmp_path / "other").write_text("")
    with pytest.raises(OutputExists, match="already holds files that are not ours"):
        files.require_empty_or_own(tmp_path, "mark", what="folder")
    (tmp_path / "mark").write_text("")
    files.require_empty_or_own(tmp_path, "mark", what="folder")


def test_os_errors_as_sentences() -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/x")
    assert text.os_reason(error) == "permission denied"
    assert str(files.refuse_os_errors("staging")(error)) == "staging failed: permission denied (/x)"
    assert text.os_reason(OSError("odd")) == "odd"


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (21_400_000, "21.4 MB"), (5e9, "5.0 GB"), (7e13, "70.0 TB")],
)
def test_human_bytes(size: float, words: str) -> None:
    assert text.human_bytes(size) == words


@pytest.mark.parametrize("address", ["s3://bucket/prefix", "S3://bucket", "gs://bucket/x"])
def test_an_address_is_not_a_folder(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^output folder {address} must be a folder of this ma"):
        make_folder(Path(address), what="output folder")
    assert not list(tmp_path.iterdir())
