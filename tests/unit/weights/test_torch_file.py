"""torch's files without torch: every kind is read, nothing in them is executed, memory is bounded."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effnet_core.errors import CheckpointError
from effnet_core.weights.containers import read_tensors, recognise
from effnet_core.weights.torch_file import LEGACY_MAGIC

PEERS = Path(__file__).parents[2] / "golden" / "peers"
GOLDEN = ("containers_zip.pth", "containers_legacy.pth", "containers_wrapped.pth")


@pytest.mark.parametrize("name", GOLDEN)
def test_files_that_torch_wrote(name: str) -> None:
    container, found = read_tensors(PEERS / name)
    assert container == ("torch legacy" if "legacy" in name else "torch zip")
    with np.load(PEERS / "containers.npz") as expected:
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert found[key].shape == value.shape, key
            assert np.array_equal(found[key].astype(np.float32), value), key
    assert found["half"].dtype == np.float16
    assert found["bfloat"].dtype == np.float32
    assert found["long"].dtype == np.int64
    assert found["transposed"].flags.c_contiguous


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_an_object_is_refused_by_its_name() -> None:
    message = refusal(PEERS / "containers_object.pth")
    assert "it asks for 'torch.nn.modules.linear.Linear', which is not a tensor" in message


# --- files that somebody made on purpose ---------------------------------------------------------


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class _Pickler(pickle.Pickler):
    """Pickles ``Reference`` as torch does storages."""

    def persistent_id(self, obj: Any) -> Any:
        return obj.value if isinstance(obj, Reference) else None


class Reference:
    def __init__(self, *value: Any) -> None:
        self.value = value


def dumps(value: Any, protocol: int = 2) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def raw_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tensor_program(
    *,
    key: str = "0",
    count: int = 4,
    offset: int = 0,
    shape: str = "(K\x04t",
    stride: str = "(K\x01t",
) -> bytes:
    """``{"w": a tensor}`` as torch would write it, with whatever numbers."""
    number = b"\x8a\x08" + struct.pack("<q", count)
    place = b"\x8a\x08" + struct.pack("<q", offset)
    return (
        b"\x80\x02}(X\x01\x00\x00\x00w"
        + raw_global("torch._utils", "_rebuild_tensor_v2")
        + b"((X\x07\x00\x00\x00storage"
        + raw_global("torch", "FloatStorage")
        + b"X"
        + struct.pack("<I", len(key))
        + key.encode()
        + b"X\x03\x00\x00\x00cpu"
        + number
        + b"tQ"
        + place
        + shape.encode("latin-1")
        + stride.encode("latin-1")
        + b"\x89}tRu."
    )


def zip_file(
    path: Path, program: bytes, *, compression: int = zipfile.ZIP_STORED, **data: bytes
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        for key, content in data.items():
            archive.writestr(f"archive/data/{key.removeprefix('_')}", content)
    return path


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_the_hand_made_form_is_a_good_file(tmp_path: Path) -> None:
    _, found = read_tensors(zip_file(tmp_path / "x.pth", tensor_program(), _0=FOUR))
    assert found["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "target",
    [
        Call(os.system, "touch witness"),
        Call(eval, "open('witness', 'w')"),
        Call(__import__, "os"),
        OrderedDict(w=Call(os.mkdir, "witness")),
        Call(pickle.loads, b"x"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_nothing_is_executed(
    target: Any, protocol: int, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = dumps(target, protocol)
    path = tmp_path / "evil.pth"
    if form == "zip":
        zip_file(path, program)
    else:
        path.write_bytes(
            dumps(LEGACY_MAGIC) + dumps(1001) + dumps({"little_endian": True}) + program
        )
    message = refusal(path)
    assert "asks for" in message or "instruction" in message
    assert list(tmp_path.iterdir()) == [path]


def test_the_call_is_named(tmp_path: Path) -> None:
    message = refusal(zip_file(tmp_path / "evil.pth", dumps(Call(os.system, "true"))))
    assert "'posix.system', which is not a tensor; nothing of it was run" in message


@pytest.mark.parametrize(
    ("program", "data", "reason"),
    [
        (tensor_program(count=5_000_000_000), FOUR, "says 5,000,000,000 elements"),
        (tensor_program(shape="(J\xff\xff\xff\x7ft"), FOUR, "larger than the file"),
        (tensor_program(shape="(K\x05t"), FOUR, "has shape (5,)"),
        (tensor_program(stride="(K\x02t"), FOUR, "has shape (4,)"),
        (tensor_program(stride="(J\xff\xff\xff\xfft"), FOUR, "described wrongly"),
        (tensor_program(offset=1), FOUR, "has shape (4,)"),
        (tensor_program(offset=-1), FOUR, "described wrongly"),
        (tensor_program(stride="(t"), FOUR, "described wrongly"),
        (tensor_program(key="1"), FOUR, "archive/data/1 is not in it"),
        (tensor_program()[:-20], FOUR, "ends too early"),
        (dumps([1, 2]), FOUR, "holds a list where named tensors are expected"),
        (dumps({"epoch": 3}), FOUR, "no named tensors"),
        (b"\x80\x02r\xff\xff\xff\xff.", FOUR, "damaged"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", FOUR, "ends too early"),
        (b"\x80\x02N" + b"\x85" * 9 + b"}b.", FOUR, "sets the state of an object"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_allocated(
    program: bytes, data: bytes, reason: str, tmp_path: Path
) -> None:
    path = zip_file(tmp_path / "x.pth", program, _0=data)
    tracemalloc.start()
    try:
        assert reason in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_compressed_entry_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    program = tensor_program(count=25_000_000)
    path = tmp_path / "bomb.pth"
    zip_file(path, program, compression=zipfile.ZIP_DEFLATED, _0=bytes(100_000_000))
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        assert "is compressed or larger than the file" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.costly
def test_many_names_for_one_storage_cannot_multiply_it(tmp_path: Path) -> None:
    one = tensor_program(count=25_000, shape="(M\xa8at")
    body = one[one.index(b"X\x01") : -2].replace(b"X\x01\x00\x00\x00w", b"")
    items = b"".join(b"X\x04\x00\x00\x00" + f"{n:04d}".encode() + body for n in range(2000))
    path = zip_file(tmp_path / "x.pth", b"\x80\x02}(" + items + b"u.", _0=bytes(100_000))
    tracemalloc.start()
    try:
        assert "larger than the file" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_legacy_header_of_20_gb_in_a_small_file(tmp_path: Path) -> None:
    content = (PEERS / "containers_legacy.pth").read_bytes()
    first = content.index(struct.pack("<q", 12) + struct.pack("<f", 0))
    path = tmp_path / "x.pth"
    path.write_bytes(content[:first] + struct.pack("<q", 5_000_000_000) + content[first + 8 :])
    assert "5,000,000,000 elements is announced where" in refusal(path)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_cut_is_a_sentence(name: str, tmp_path: Path) -> None:
    content = (PEERS / name).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(content) - 1, 13):
        path.write_bytes(content[:length])
        refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is an empty file"),
        (b"\n <!DOCTYPE html><html><body>404</body>", "is a web page, not weights"),
        (b"<html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(40), "damaged or cut"),
        (b"hello", "is of no known kind"),
        (b"\x0a\x05hello", "damaged or no MindSpore checkpoint"),
    ],
)
def test_other_files_are_told_apart_by_looking(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert reason in refusal(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "not one that torch.save wrote" in refusal(tmp_path / "x.pth")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        recognise(tmp_path / "gone.pth")


# --- fuzz ----------------------------------------------------------------------------------------


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        read_tensors(path)
    except CheckpointError as error:
        assert "\n" not in str(error)


FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(
    name=st.sampled_from(GOLDEN),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6),
)
@pytest.mark.costly
def test_changed_bytes_never_do_harm(
    name: str, changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    content = bytearray((PEERS / name).read_bytes())
    for position, value in changes:
        content[position % len(content)] = value
    read_or_refuse(tmp_path / "x.pth", bytes(content))


@FUZZ
@given(program=st.binary(max_size=200))
def test_any_program_ends(program: bytes, tmp_path: Path) -> None:
    path = zip_file(tmp_path / "x.pth", b"\x80\x02" + program, _0=FOUR)
    read_or_refuse(path, path.read_bytes())


INSTRUCTIONS = (
    *(b"(", b"}", b"]", b")", b"N", b"K\x01", b"\x85", b"\x86", b"\x87", b"t", b"R", b"Q", b"u"),
    *(b"s", b"a", b"e", b"b", b"q\x00", b"h\x00", b"\x94", b"X\x01\x00\x00\x00w", b".", b"\x93"),
    raw_global("torch._utils", "_rebuild_tensor_v2"),
    raw_global("torch._utils", "_rebuild_parameter"),
    raw_global("torch", "FloatStorage"),
    raw_global("collections", "OrderedDict"),
    raw_global("os", "system"),
)


@FUZZ
@given(program=st.lists(st.sampled_from(INSTRUCTIONS), max_size=60))
@pytest.mark.costly
def test_any_known_instructions_end(program: list[bytes], tmp_path: Path) -> None:
    path = zip_file(tmp_path / "x.pth", b"\x80\x02" + b"".join(program) + b".", _0=FOUR)
    read_or_refuse(path, path.read_bytes())
