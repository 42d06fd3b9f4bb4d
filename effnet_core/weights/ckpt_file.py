"""MindSpore's ``.ckpt`` container, read and written without MindSpore.

For everybody in this project: ``read_ckpt`` gives numpy arrays by name, ``write_ckpt`` makes a file that
``mindspore.load_checkpoint`` reads. The file is a protobuf message (``Checkpoint`` of mindspore's
``checkpoint.proto``); this is a strict reader of that one message, about ten times faster than starting
MindSpore. A file can make it allocate its own size twice over, and not more.

    message Checkpoint     { repeated Value value = 1; }
    message Value          { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3; }
    message TensorProto    { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3; }

A tensor of more than 512 MB is stored as several values of one tag, one after the other. Files that
were saved with ``crc_check=True`` end with ``crc_num`` and ten digits' bytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.errors import CheckpointError
from effnet_core.system.files import atomic_path
from effnet_core.text import os_reason

Array = NDArray[Any]

DTYPES: Mapping[str, str] = {
    "Int8": "<i1",
    "UInt8": "<u1",
    "Int16": "<i2",
    "UInt16": "<u2",
    "Int32": "<i4",
    "UInt32": "<u4",
    "Int64": "<i8",
    "UInt64": "<u8",
    "Float16": "<f2",
    "Float32": "<f4",
    "Float64": "<f8",
    "Bool": "|b1",
    "BFloat16": "<u2",  # widened to float32: numpy has no such type
}
"""MindSpore's names of types, and what their bytes are; a string has the type ``str``."""

TEXT_TYPE = "str"
CRC_MARK = b"crc_num"
CRC_BYTES = len(CRC_MARK) + 10
SLICE_BYTES = 512 << 20
"""Longer tensors are written in several pieces, because a protobuf message ends at 2 GB."""
MAX_DIMS = 16
MAX_VALUES = 100_000
_VARINT, _LENGTH = 0, 2


class _Malformed(Exception):
    """Why the bytes are not such a message."""


def read_ckpt(path: Path) -> dict[str, Array]:
    """Every value of a checkpoint by its name, in the file's order.

    Returns:
        Arrays of their own type (bfloat16 as float32); texts as arrays of shape ().

    Raises:
        CheckpointError: the file is missing, cut, of another kind or holds what is not a tensor.
    """
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise CheckpointError(f"checkpoint {path} cannot be read ({os_reason(cause)})") from cause
    try:
        return _parse(memoryview(_without_crc(content)))
    except _Malformed as cause:
        raise CheckpointError(
            f"checkpoint {path} is damaged or no MindSpore checkpoint: {cause}"
        ) from cause


def write_ckpt(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as a file that ``mindspore.load_checkpoint`` reads, atomically.

    Raises:
        CheckpointError: a type is not one of the container's, or the file cannot be written.
    """
    names = {np.dtype(code): name for name, code in DTYPES.items() if name != "BFloat16"}
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            for tag, array in arrays.items():
                if array.dtype not in names:
                    raise CheckpointError(
                        f"{tag} has type {array.dtype}, which a .ckpt cannot hold"
                    )
                raw = memoryview(np.ascontiguousarray(array).tobytes())
                for start in range(0, max(1, len(raw)), SLICE_BYTES):
                    piece = raw[start : start + SLICE_BYTES]
                    stream.write(_value(tag, array.shape, names[array.dtype], piece))
            stream.flush()
    except OSError as cause:
        raise CheckpointError(
            f"checkpoint {path} cannot be written ({os_reason(cause)})"
        ) from cause


def _without_crc(content: bytes) -> bytes:
    if content[-CRC_BYTES:][: len(CRC_MARK)] != CRC_MARK:
        return content
    body = content[:-CRC_BYTES]
    if zlib.crc32(body) != int.from_bytes(content[-10:], "big"):
        raise _Malformed("its check sum is not that of its bytes")
    return body


def _parse(content: memoryview) -> dict[str, Array]:
    if not content:
        raise _Malformed("it is empty")
    pieces: dict[str, list[memoryview]] = {}
    kinds: dict[str, tuple[tuple[int, ...], str]] = {}
    last = None
    for number, value in _fields(content):
        if number != 1 or isinstance(value, int):
            raise _Malformed(f"unknown field {number}")
        if len(kinds) >= MAX_VALUES:
            raise _Malformed(f"it has more than {MAX_VALUES:,} values")
        tag, shape, kind, data = _read_value(value)
        if tag in kinds and (tag != last or kinds[tag] != (shape, kind)):
            raise _Malformed(f"{tag!r} is there twice")
        kinds[tag] = shape, kind
        pieces.setdefault(tag, []).append(data)
        last = tag
    return {tag: _array(tag, *kinds[tag], pieces[tag]) for tag in kinds}


def _read_value(message: memoryview) -> tuple[str, tuple[int, ...], str, memoryview]:
    """Tag, shape, type and bytes of one value."""
    fields = _once(message, allowed=(1, 2))
    tag = _text(fields[1])
    dims: list[int] = []
    rest: dict[int, memoryview] = {}
    for number, value in _fields(fields[2]):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif number in (2, 3) and number not in rest and not isinstance(value, int):
            rest[number] = value
        else:
            raise _Malformed(f"{tag!r} has the unknown field {number}")
        if len(dims) > MAX_DIMS:
            raise _Malformed(f"{tag!r} has more than {MAX_DIMS} dimensions")
    if len(rest) != 2:
        raise _Malformed(f"{tag!r} has no type or no content")
    return tag, tuple(dims), _text(rest[2]), rest[3]


def _once(message: memoryview, *, allowed: tuple[int, ...]) -> dict[int, memoryview]:
    """The fields of a message that must have each of them, once, and no other."""
    found: dict[int, memoryview] = {}
    for number, value in _fields(message):
        if number not in allowed or number in found or isinstance(value, int):
            raise _Malformed(f"unknown field {number} in a value")
        found[number] = value
    if len(found) != len(allowed):
        raise _Malformed("a value has no name or no tensor")
    return found


def _array(tag: str, shape: tuple[int, ...], kind: str, pieces: list[memoryview]) -> Array:
    data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
    if kind == TEXT_TYPE:
        try:
            return np.array(bytes(data).decode("utf-32-le"))
        except UnicodeDecodeError as cause:
            raise _Malformed(f"{tag!r} is not text") from cause
    if kind not in DTYPES:
        raise _Malformed(f"{tag!r} has the unknown type {kind[:40]!r}")
    dtype = np.dtype(DTYPES[kind])
    if shape == (0,) and len(data) == dtype.itemsize:
        shape = ()  # how older releases write a scalar
    if math.prod(shape) * dtype.itemsize != len(data):
        raise _Malformed(
            f"{tag!r} has {len(data):,} bytes where shape {shape} of {kind} has others"
        )
    array = np.frombuffer(data, dtype).reshape(shape)
    if kind == "BFloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.copy()  # aligned, and does not hold the whole file


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; a length must fit in what is left."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value, position = _varint(message, position)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _LENGTH:
            if value > len(message) - position:
                raise _Malformed("it ends too early")
            yield key >> 3, message[position : position + value]
            position += value
        else:
            raise _Malformed(f"unknown wire type {key & 7}")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of at most 64 bits, and where it ends."""
    result = 0
    for index, byte in enumerate(message[position : position + 10]):
        result |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if result >= 1 << 63:
                raise _Malformed("a number is negative or too large")
            return result, position + index + 1
    raise _Malformed("it ends inside a number")


def _packed(message: memoryview) -> list[int]:
    values: list[int] = []
    position = 0
    while position < len(message) and len(values) <= MAX_DIMS:
        value, position = _varint(message, position)
        values.append(value)
    return values


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as cause:
        raise _Malformed("a name is not text") from cause


def _value(tag: str, shape: tuple[int, ...], kind: str, data: memoryview) -> bytes:
    """One ``Value`` as a field of ``Checkpoint``."""
    dims = b"".join(b"\x08" + _encode(size) for size in shape)
    head = dims + _prefixed(2, kind.encode()) + b"\x1a" + _encode(len(data))
    size = len(head) + len(data)
    value = _prefixed(1, tag.encode()) + b"\x12" + _encode(size) + head
    return b"\x0a" + _encode(len(value) + len(data)) + value + bytes(data)


def _prefixed(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH]) + _encode(len(content)) + content


def _encode(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)
