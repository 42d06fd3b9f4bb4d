"""Unpacking: everything that an archive could do to its reader is refused, in a sentence."""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_core.data.sources import archives
from effnet_core.data.sources.archives import Limits, unpack
from effnet_core.errors import DataError
from effnet_core.system import files as core_files

Entry = tuple[str, bytes | str]
"""Name and content; ``->target``, ``=>target``, ``fifo`` or ``device`` instead of content."""


def tar(path: Path, *entries: Entry, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
                continue
            kinds = {"->": tarfile.SYMTYPE, "=>": tarfile.LNKTYPE}
            info.type = kinds.get(content[:2], b"")
            if content == "fifo":
                info.type = tarfile.FIFOTYPE
            elif content == "device":
                info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
            elif content == "folder":
                info.type = tarfile.DIRTYPE
            info.linkname = content[2:]
            archive.addfile(info)
    return path


def zipped(path: Path, *entries: Entry) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            info.filename = name  # ZipInfo itself would cut a name at a NUL
            if isinstance(content, str):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            data = content[2:].encode() if isinstance(content, str) else content
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


GOOD: tuple[Entry, ...] = (("cat/a b.jpg", b"1"), ("cat/é.jpg", b"22"), ("deep/x/y.jpg", b""))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.tar", lambda p: tar(p, *GOOD)),
        ("a.tar.gz", lambda p: tar(p, *GOOD, mode="w:gz")),
        ("a.tgz", lambda p: tar(p, *GOOD, mode="w:gz")),
        ("a.tar.xz", lambda p: tar(p, *GOOD, mode="w:xz")),
        ("a.zip", lambda p: zipped(p, *GOOD)),
    ],
)
def test_good_archives(tmp_path: Path, name: str, make: Callable[[Path], Path]) -> None:
    out = unpack(make(tmp_path / name), tmp_path / "out")
    assert files(out) == dict(GOOD)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name, "out"]


def test_names_that_begin_with_a_dot_and_a_slash(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", (".", "folder"), ("./cat", "folder"), ("./cat/a.jpg", b"1"))
    assert files(unpack(path, tmp_path / "out")) == {"cat/a.jpg": b"1"}


def test_rights_and_owners_of_an_archive_do_not_count(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("run")
        info.mode, info.size = 0o6777, 1
        archive.addfile(info, io.BytesIO(b"x"))
    out = unpack(tmp_path / "a.tar", tmp_path / "out")
    assert (out / "run").stat().st_mode & 0o7111 == 0


POISONED: dict[str, tuple[list[Entry], str]] = {
    "parent": ([("../outside", b"x")], r"a member with '\.\.' in its name"),
    "deep parent": ([("a/b/../../../outside", b"x")], r"a member with '\.\.' in its name"),
    "absolute": ([("/tmp/outside", b"x")], "a member with an absolute name"),
    "backslash": ([("a\\..\\..\\outside", b"x")], r"a member with (a backslash|'\.\.')"),
    "deep": ([("a/" * 101 + "b", b"x")], "a member with more than 100 folders"),
    "drive": ([("C:outside", b"x")], "a member with a drive letter"),
    "link out": ([("link", "->../..")], r"a link \('link'\) that leads out of it"),
    "link as folder": ([("link", "->.."), ("link/outside", b"x")], r"a link \('link'\) that leads"),
    "link out through a folder": ([("a/link", "->../../b")], r"a link \('a/link'\) that leads"),
    "absolute link": ([("link", "->/etc/passwd")], "a link"),
    "twice": ([("a", b"x"), ("a", b"y")], r"two members of one name \('a'\)"),
    "file as folder": ([("a", b"x"), ("a/b", b"y")], "a file and a folder of one name"),
}
ONLY_TAR: dict[str, tuple[list[Entry], str]] = {
    "hard link out": ([("link", "=>../../etc/passwd")], "a link"),
    "device": ([("null", "device")], r"a device or pipe \('null'\)"),
    "pipe": ([("pipe", "fifo")], r"a device or pipe \('pipe'\)"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("trick", [*POISONED, *ONLY_TAR])
def test_poisoned_archives(tmp_path: Path, trick: str, kind: str) -> None:
    if kind == "zip" and trick in ONLY_TAR:
        return
    entries, words = (POISONED | ONLY_TAR)[trick]
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    make = tar if kind == "tar" else zipped
    path = make(folder / f"a.{kind}", ("good.jpg", b"1"), *entries)
    with pytest.raises(DataError, match=rf"a\.{kind} is refused: it has {words}") as caught:
        unpack(path, folder / "out")
    assert "\n" not in str(caught.value)
    assert list(files(tmp_path)) == [f"deep/deeper/a.{kind}"]
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_links_to_files_inside_have_their_content(tmp_path: Path, kind: str) -> None:
    entries: list[Entry] = [
        ("cat/early.jpg", "->../dog/1.jpg"),
        ("dog/1.jpg", b"1"),
        ("cat/to a folder", "->../dog"),
        ("cat/to nothing.jpg", "->2.jpg"),
    ]
    if kind == "tar":
        entries.append(("cat/hard.jpg", "=>dog/1.jpg"))
    make = tar if kind == "tar" else zipped
    out = unpack(make(tmp_path / f"a.{kind}", *entries), tmp_path / "out")
    hard = {"cat/hard.jpg": b"1"} if kind == "tar" else {}
    assert files(out) == {"cat/early.jpg": b"1", "dog/1.jpg": b"1", **hard}
    assert not any(path.is_symlink() for path in out.rglob("*"))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_no_file_system_takes_are_spelled_otherwise(tmp_path: Path, kind: str) -> None:
    make = tar if kind == "tar" else zipped
    long = "s" * 300 + ".jpg"
    path = make(tmp_path / f"a.{kind}", ("cat/a\nb.jpg", b"1"), (f"cat/{long}", b"2"))
    found = files(unpack(path, tmp_path / "out"))
    assert found.pop("cat/a%0Ab.jpg") == b"1"
    [(name, content)] = found.items()
    assert content == b"2" and name.endswith(".jpg") and len(name) < 256


NAMES = {
    "utf-8": ["Café", "naïve"],
    "gb18030": ["小猫", "小狗", "大象"],
    "cp932": ["ねこ", "犬小屋"],
    "cp949": ["고양이", "강아지"],
    "big5": ["貓", "狗", "大象"],
    "cp866": ["кошки", "собаки"],
    "cp1251": ["кошки", "собаки"],
    "cp437": ["café", "Kätzchen", "Äpfel"],
}


@pytest.mark.parametrize("encoding", NAMES)
def test_names_in_the_letters_of_their_makers(tmp_path: Path, encoding: str) -> None:
    """Windows' own archives say nothing of the encoding, and those of macOS not that it is UTF-8."""
    names = NAMES[encoding]
    raw = [name.encode(encoding) for name in names]
    path = zipped(
        tmp_path / "a.zip", *(("X" * len(r) + f"/{n}.jpg", b"") for n, r in enumerate(raw))
    )
    data = path.read_bytes()
    for number, name in enumerate(raw):
        data = data.replace(b"X" * len(name) + b"/%d" % number, name + b"/%d" % number)
    path.write_bytes(data)
    found = files(unpack(path, tmp_path / "out"))
    assert sorted(found) == sorted(f"{name}/{n}.jpg" for n, name in enumerate(names))


def test_backslashes_of_windows(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("images\\cat\\1.jpg", b"1"), ("images\\dog\\", b""))
    assert files(unpack(path, tmp_path / "out")) == {"images/cat/1.jpg": b"1"}
    assert (tmp_path / "out/images/dog").is_dir()


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb(tmp_path: Path, kind: str) -> None:
    entry = ("zeros.jpg", b"\0" * 60_000_000)
    path = tmp_path / f"a.{kind}"
    path = tar(path, entry, mode="w:gz") if kind == "tar.gz" else zipped(path, entry)
    with pytest.raises(DataError, match=r"refused: it unpacks to 60\.0 MB or more from \d+\.\d kB"):
        unpack(path, tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_bomb_that_lies_about_its_size(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("zeros.jpg", b"\0" * 3_000_000))
    data = bytearray(path.read_bytes())
    for where in (14 + 8, data.index(b"PK\1\2") + 24):  # both headers say 100 bytes
        data[where : where + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is damaged or cut|is refused"):
        unpack(path, tmp_path / "out")
    assert len(list(tmp_path.iterdir())) == 1


def test_too_many_members(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", *((str(number), b"") for number in range(12)))
    with pytest.raises(DataError, match="more than 11 members"):
        unpack(path, tmp_path / "out", limits=Limits(members=11))


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a.jpg", b"1"))
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"an encrypted file \('a\.jpg'\)"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_archives(tmp_path: Path, name: str, damage: str) -> None:
    entries = [(f"{n}.jpg", os.urandom(5000)) for n in range(5)]
    path = tmp_path / name
    if name == "a.zip":
        zipped(path, *entries)
    else:
        tar(path, *entries, mode="w:gz" if name.endswith("gz") else "w")
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "text": b"not found\n", "empty": b""}[damage]
    )
    with pytest.raises(DataError, match=r"is damaged or cut .*; fetch it again"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_room_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", ("a.jpg", os.urandom(9000)))
    usage = shutil.disk_usage(tmp_path)._replace(free=core_files.RESERVE_BYTES + 8999)
    monkeypatch.setattr(core_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"unpacking a\.zip needs 9\.0 kB, but .* MB free"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", *GOOD)

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archives, "_copy", full)
    with pytest.raises(DataError, match=r"cannot be unpacked into .* \(no space left on device\)"):
        unpack(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_what_is_unpacked_is_not_unpacked_again_and_a_rest_is(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", *GOOD)
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "rest").write_bytes(b"of a killed process")
    out = unpack(path, tmp_path / "out")
    assert files(out) == dict(GOOD)
    path.write_bytes(b"")
    assert unpack(path, tmp_path / "out") == out


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip", "lzma.zip"])
def test_archives_with_any_damage_end_in_a_sentence(tmp_path: Path, kind: str) -> None:
    """Whatever the libraries raise."""
    chance = random.Random(kind)
    path = tmp_path / f"a.{kind}"
    if kind.endswith("zip"):
        method = zipfile.ZIP_LZMA if kind == "lzma.zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in GOOD:
                archive.writestr(name, content)
    else:
        tar(path, *GOOD, mode=f"w:{kind.partition('.')[2]}")
    whole = path.read_bytes()
    refused = 0
    for number in range(50):
        data = bytearray(whole[: chance.randrange(len(whole))] if number % 3 == 0 else whole)
        for _ in range(chance.randrange(1, 4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            unpack(path, tmp_path / "out")
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert refused > 5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
