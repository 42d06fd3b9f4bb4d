"""The safetensors container, read and written with numpy alone.

Eight bytes of length, a JSON header, then the tensors' bytes. Source: the format's README
(huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.files import atomic_path
from effnet_core.weights.torch_file import MAX_DIMS, Malformed

Array = NDArray[Any]

DTYPES: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # widened to float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
MAX_HEADER_BYTES = 100_000_000


def read_safetensors(path: Path) -> dict[str, Array]:
    """Every tensor by its name.

    Raises:
        Malformed: the file is damaged.
    """
    content = memoryview(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(content) - 8):
        raise Malformed(f"its header of {length:,} bytes is not all there")
    try:
        header = json.loads(bytes(content[8 : 8 + length]))
    except (ValueError, RecursionError) as cause:
        raise Malformed("its header is no JSON") from cause
    if not isinstance(header, dict):
        raise Malformed("its header is not a mapping")
    header.pop("__metadata__", None)
    data, end = content[8 + length :], 0
    result = {}
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
        result[name], end = _tensor(name, entry, data, end)
    if not result:
        raise Malformed("it holds no named tensors")
    return result


def _begin(entry: Any) -> int:
    try:
        begin = entry["data_offsets"][0]
    except (TypeError, KeyError, IndexError) as cause:
        raise Malformed("a tensor has no place") from cause
    return begin if isinstance(begin, int) else -1


def _tensor(name: str, entry: Any, data: memoryview, previous_end: int) -> tuple[Array, int]:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        sizes = list(shape)
    except (TypeError, KeyError, ValueError) as cause:
        raise Malformed(f"{name[:80]!r} is described wrongly") from cause
    if not isinstance(kind, str) or kind not in DTYPES:
        raise Malformed(f"{name[:80]!r} has the unknown type {str(kind)[:40]!r}")
    if not all(map(_is_number, (begin, end, *sizes))) or len(sizes) > MAX_DIMS:
        raise Malformed(f"{name[:80]!r} is described wrongly")
    if min(sizes, default=0) < 0 or begin != previous_end or not begin <= end <= len(data):
        raise Malformed(
            f"{name[:80]!r} lies at bytes {begin:,}-{end:,}, and there are {len(data):,}"
        )
    dtype = np.dtype(DTYPES[kind])
    if math.prod(sizes) * dtype.itemsize != end - begin:
        raise Malformed(
            f"{name[:80]!r} has {end - begin:,} bytes where shape {sizes} of {kind} has others"
        )
    array = np.frombuffer(data[begin:end], dtype).reshape(sizes)
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32), end
    return array.copy(), end


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as a file that every reader of safetensors takes, atomically."""
    kinds = {np.dtype(code): kind for kind, code in DTYPES.items() if kind != "BF16"}
    header: dict[str, Any] = {}
    position = 0
    for name, array in arrays.items():
        end = position + array.nbytes
        header[name] = {
            "dtype": kinds[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            stream.write(np.ascontiguousarray(array).tobytes())
