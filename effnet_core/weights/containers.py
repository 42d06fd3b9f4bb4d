"""What kind of file weights are in, found by looking, and the named tensors inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from effnet_core.errors import CheckpointError
from effnet_core.system.files import atomic_path
from effnet_core.text import in_one_line, os_reason
from effnet_core.weights.ckpt_file import read_ckpt
from effnet_core.weights.torch_file import read_torch_legacy, read_torch_zip
from effnet_core.weights.torch_pickle import MAX_DIMS, Malformed

Array = NDArray[Any]
Container = Literal["MindSpore .ckpt", "safetensors", "torch zip", "torch legacy"]

SAFETENSORS: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # widened to float32: numpy has no such type
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
"""The format's names of types, and what their bytes are."""


MAX_HEADER_BYTES = 10_000_000
"""Room for 100,000 tensors; the library's own limit of 100 MB is a billion bytes of Python objects."""


def read_safetensors(path: Path) -> dict[str, Array]:
    """Every tensor of a safetensors file by its name.

    Raises:
        Malformed: the file is damaged, or has a type that no weights here have.
    """
    from safetensors import SafetensorError, deserialize

    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    if header > MAX_HEADER_BYTES:
        raise Malformed(f"its header has {header:,} bytes, at most {MAX_HEADER_BYTES:,} are read")
    try:
        entries = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as cause:
        reason = in_one_line(cause).removeprefix("Error while deserializing: ")
        raise Malformed(f"it is damaged ({reason})") from cause
    result = {name: _tensor(name, **entry) for name, entry in entries}
    if not result:
        raise Malformed("it holds no named tensors")
    return result


def _tensor(name: str, *, dtype: str, shape: list[int], data: bytes) -> Array:
    if dtype not in SAFETENSORS:
        raise Malformed(f"{name[:80]!r} has the unknown type {dtype!r}")
    try:
        array = np.frombuffer(data, SAFETENSORS[dtype]).reshape(shape[: MAX_DIMS + 1])
    except ValueError as cause:
        raise Malformed(f"{name[:80]!r} has a shape that no tensor has") from cause
    if array.ndim > MAX_DIMS:
        raise Malformed(f"{name[:80]!r} has {len(shape)} dimensions, at most {MAX_DIMS} are read")
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def write_safetensors(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as a file that every reader of safetensors takes, atomically."""
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        save_file(dict(arrays), temporary)


_READERS: Mapping[Container, Callable[[Path], dict[str, Array]]] = {
    "MindSpore .ckpt": read_ckpt,
    "safetensors": read_safetensors,
    "torch zip": read_torch_zip,
    "torch legacy": read_torch_legacy,
}

HEAD_BYTES = 512


def recognise(path: Path) -> Container:
    """The kind of a file, from its first bytes; its name says nothing.

    Raises:
        CheckpointError: it is missing, or of none of the kinds.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as cause:
        raise CheckpointError(f"weights {path} cannot be read ({os_reason(cause)})") from cause
    start = head.lstrip().lower()
    if not head:
        raise CheckpointError(f"weights {path} is an empty file; fetch it again")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--", b"<head", b"<body")):
        raise CheckpointError(
            f"weights {path} is a web page, not weights: the download was answered with an error page; "
            "open its address in a browser to see why"
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"weights {path} is a pointer of Git LFS, not weights; fetch the file with git lfs pull"
        )
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "torch legacy"
    if head[:1] == b"\x0a":
        return "MindSpore .ckpt"
    raise CheckpointError(f"weights {path} is of no known kind; known: {', '.join(_READERS)}")


WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel, torch.compile and training frameworks put before every name."""


def without_wrappers(tensors: dict[str, Array]) -> dict[str, Array]:
    """The same tensors, without what wraps the names of all of them."""
    while tensors:
        first = next((one for one in WRAPPERS if all(map(_begins(one), tensors))), None)
        if first is None:
            break
        tensors = {name.removeprefix(first): array for name, array in tensors.items()}
    return tensors


def _begins(start: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(start)


def read_tensors(path: Path) -> tuple[Container, dict[str, Array]]:
    """Kind and named tensors of a file; nothing in it is executed.

    Raises:
        CheckpointError: it is missing, damaged, of no known kind, or holds more than tensors.
    """
    container = recognise(path)
    try:
        return container, without_wrappers(_READERS[container](path))
    except Malformed as cause:
        raise CheckpointError(f"weights {path} ({container}) cannot be used: {cause}") from cause
    except OSError as cause:
        raise CheckpointError(f"weights {path} cannot be read ({os_reason(cause)})") from cause
