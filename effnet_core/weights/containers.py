"""What kind of file weights are in, found by looking, and the named tensors inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from effnet_core.errors import CheckpointError
from effnet_core.text import os_reason
from effnet_core.weights.ckpt_file import read_ckpt
from effnet_core.weights.safetensors_file import read_safetensors
from effnet_core.weights.torch_file import Malformed, read_torch_legacy, read_torch_zip

Array = NDArray[Any]
Container = Literal["MindSpore .ckpt", "safetensors", "torch zip", "torch legacy"]

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


def read_tensors(path: Path) -> tuple[Container, dict[str, Array]]:
    """Kind and named tensors of a file; nothing in it is executed.

    Raises:
        CheckpointError: it is missing, damaged, of no known kind, or holds more than tensors.
    """
    container = recognise(path)
    try:
        return container, _READERS[container](path)
    except Malformed as cause:
        raise CheckpointError(f"weights {path} ({container}) cannot be used: {cause}") from cause
    except OSError as cause:
        raise CheckpointError(f"weights {path} cannot be read ({os_reason(cause)})") from cause
