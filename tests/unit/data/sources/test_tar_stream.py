"""Tar files that would cost far more than their size are refused before the bytes are there."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from effnet_core.data.sources.opening import open_source
from effnet_core.data.sources.tar_stream import GLOBAL_HEADERS, read_tar
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError
from tests.support.images import draw, encode

MIB = 1 << 20


@contextmanager
def no_more_than(size_bytes: int) -> Iterator[None]:
    """Python may take no more memory than this inside the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size_bytes
    finally:
        tracemalloc.stop()


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def packed(path: Path, start: bytes, zeros: int) -> Path:
    with gzip.open(path, "wb", 1) as stream:
        stream.write(start)
        for _ in range(zeros // MIB):
            stream.write(bytes(MIB))
    return path


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_a_header_that_says_it_is_huge(kind: bytes, tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.tar.gz", header("././@LongLink", kind, 1 << 31), 64 * MIB)
    with (
        no_more_than(16 * MIB),
        pytest.raises(DataError, match=r"a name or header of 2\.1 GB, allowed are 2\.1 MB"),
    ):
        stage_dataset(bomb, tmp_path / "out")


def test_a_shard_is_not_looked_into_by_unpacking_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = packed(tmp_path / "bomb.tar.gz", header("a/b.jpg", tarfile.REGTYPE, 4 << 30), 8 * MIB)
    unpacked: list[int] = []
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int = -1) -> bytes:
        unpacked.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DataError, match="it unpacks to"):
        open_source(bomb).labelled(tmp_path / "work")
    assert sum(unpacked) < MIB


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"?"])
def test_nothing_is_skipped_beyond_what_a_stream_may_unpack_to(kind: bytes, tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.tar.gz", header("x", kind, 64 * MIB), 65 * MIB)
    with (
        bomb.open("rb") as stream,
        no_more_than(16 * MIB),
        pytest.raises(tarfile.ReadError, match=r"it unpacks to more than 4\.2 MB"),
    ):
        list(read_tar(stream, largest=4 * MIB))


def test_many_attributes_for_all_members() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.pax_headers = {}
        for number in range(GLOBAL_HEADERS + 2):
            info = tarfile.TarInfo(f"{number}")
            stream.write(tarfile.TarInfo.create_pax_global_header({f"k{number}": "v"}))
            stream.write(info.tobuf())
    stream.write(bytes(1024))
    stream.seek(0)
    with pytest.raises(tarfile.ReadError, match="attributes for all members"):
        list(read_tar(stream))


def test_headers_inside_headers_end(tmp_path: Path) -> None:
    chain = header("x", tarfile.GNUTYPE_LONGNAME, 1) + bytes(512)
    with gzip.open(tmp_path / "chain.tar.gz", "wb") as stream:
        stream.write(chain * 5000)
    with pytest.raises(DataError, match="is damaged or cut"):
        stage_dataset(tmp_path / "chain.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_sound_files_are_read_whole(mode: str) -> None:
    """With long names, in both forms, and members larger than what headers may take."""
    stream = io.BytesIO()
    names = ["short", "x" * 300, "folder/" * 60 + "deep"]
    content = encode(draw(64, 48), "png") + bytes(3 * MIB)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream.seek(0)
        stream.truncate()
        with tarfile.open(fileobj=stream, mode=mode, format=form) as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        stream.seek(0)
        found = {info.name: file.read() for info, file in read_tar(stream) if file is not None}
        assert found == dict.fromkeys(names, content)


def test_a_cut_file_is_damaged_not_a_surprise() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo("a")
        info.size = 100_000
        tar.addfile(info, io.BytesIO(bytes(range(250)) * 400))
    cut = io.BytesIO(stream.getvalue()[:-200])
    with pytest.raises(tarfile.ReadError):
        [file.read() for _, file in read_tar(cut) if file is not None]
