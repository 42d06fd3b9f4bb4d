"""MindSpore's container, read and written without MindSpore."""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from effnet_core.errors import CheckpointError
from effnet_core.weights import ckpt_file
from effnet_core.weights.ckpt_file import read_ckpt, write_ckpt

ARRAYS = {
    "stem.conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "step": np.array(7, dtype=np.int64),
    "half": np.array([1.5, -2], dtype=np.float16),
    "flag": np.array([True, False]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_ckpt(tmp_path / "a.ckpt", ARRAYS)
    return tmp_path / "a.ckpt"


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return list(left) == list(right) and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and np.array_equal(left[name], right[name])
        for name in left
    )


def test_what_was_written_is_read(path: Path) -> None:
    found = read_ckpt(path)
    assert same(found, ARRAYS)
    assert all(array.flags.writeable and array.flags.aligned for array in found.values())


def test_the_bytes_are_mindspores(tmp_path: Path) -> None:
    # mindspore.save_checkpoint([{"name": "s", "data": Tensor(np.float32(1.5))}], ...)
    golden = bytes.fromhex("0a14 0a0173 120f 1207 466c6f61743332 1a04 0000c03f")
    write_ckpt(tmp_path / "s.ckpt", {"s": np.array(1.5, np.float32)})
    assert (tmp_path / "s.ckpt").read_bytes() == golden


def test_long_tensors_go_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ckpt_file, "SLICE_BYTES", 40)
    write_ckpt(tmp_path / "a.ckpt", ARRAYS)
    assert (tmp_path / "a.ckpt").read_bytes().count(b"stem.conv.weight") == 3
    assert same(read_ckpt(tmp_path / "a.ckpt"), ARRAYS)


def test_a_check_sum_is_checked(path: Path) -> None:
    body = path.read_bytes()
    path.write_bytes(body + b"crc_num" + zlib.crc32(body).to_bytes(10, "big"))
    assert same(read_ckpt(path), ARRAYS)
    path.write_bytes(body + b"crc_num" + (zlib.crc32(body) ^ 1).to_bytes(10, "big"))
    with pytest.raises(CheckpointError, match="check sum"):
        read_ckpt(path)


def test_texts_and_bfloat16_are_read(tmp_path: Path) -> None:
    text, brain = "größe".encode("utf-32-le"), bytes.fromhex("c03f 00c0")
    (tmp_path / "a.ckpt").write_bytes(
        ckpt_file._value("name", (1,), "str", memoryview(text))
        + ckpt_file._value("b", (2,), "BFloat16", memoryview(brain))
    )
    found = read_ckpt(tmp_path / "a.ckpt")
    assert str(found["name"]) == "größe"
    assert found["b"].dtype == np.float32 and found["b"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "damaged or no MindSpore"),
        (b"PK\x03\x04" + bytes(100), "damaged or no MindSpore"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "too early"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "negative or too large"),
        (b"\x0a\x80", "inside a number"),
        (b"\x10\x01", "unknown field 2"),
    ],
)
def test_other_files_are_refused_in_a_sentence(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        read_ckpt(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("shape", "kind", "size", "reason"),
    [
        ((5_000_000_000,), "Float32", 4, "5000000000"),
        ((2, 2), "Float32", 12, "has 12 bytes"),
        ((1,), "Quantised", 4, "unknown type"),
        ((1,) * 40, "Float32", 4, "dimensions"),
    ],
)
def test_a_tensor_that_claims_other_sizes_is_refused(
    shape: tuple[int, ...], kind: str, size: int, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "a.ckpt").write_bytes(ckpt_file._value("t", shape, kind, memoryview(bytes(size))))
    with pytest.raises(CheckpointError, match=reason):
        read_ckpt(tmp_path / "a.ckpt")


def test_a_name_may_not_come_twice(tmp_path: Path) -> None:
    one = ckpt_file._value("a", (1,), "Int8", memoryview(b"1"))
    two = ckpt_file._value("b", (1,), "Int8", memoryview(b"1"))
    (tmp_path / "a.ckpt").write_bytes(one + two + one)
    with pytest.raises(CheckpointError, match="twice"):
        read_ckpt(tmp_path / "a.ckpt")


def test_a_missing_file_and_an_unknown_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_ckpt(tmp_path / "gone.ckpt")
    with pytest.raises(CheckpointError, match="complex128"):
        write_ckpt(tmp_path / "c.ckpt", {"c": np.array(1j)})
    assert list(tmp_path.iterdir()) == []


@given(st.data())
def test_no_damage_raises_anything_else(data: st.DataObject) -> None:
    body = bytearray(
        b"".join(
            ckpt_file._value(tag, a.shape, "Float32", memoryview(a.astype("<f4").tobytes()))
            for tag, a in ARRAYS.items()
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    with contextlib.suppress(ckpt_file._Malformed):
        ckpt_file._parse(memoryview(bytes(body[:cut])))


@given(arrays(np.float32, array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)))
def test_any_array_comes_back(array: np.ndarray) -> None:
    raw = memoryview(array.tobytes())
    found = ckpt_file._parse(memoryview(ckpt_file._value("t", array.shape, "Float32", raw)))
    assert found["t"].shape == array.shape
    assert found["t"].tobytes() == array.tobytes()
