"""Files that ``torch.save`` wrote, read without torch and without executing a pickle.

Their pickles are run by ``torch_pickle.Machine``, which only describes tensors; a tensor is made only where
the bytes for it are in the file.

Source of the format: torch/serialization.py (zip files since 1.6, and the older sequence of pickles).
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.weights.torch_pickle import STORAGES, Machine, Malformed, Storage, Tensor

Array = NDArray[Any]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_PICKLE_BYTES = 64 << 20
MAX_ALIASING = 2
"""How many times the file's size all tensors together may have, where several share a storage."""
STATE_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
"""Where training scripts put the weights inside a larger checkpoint, best first."""


def read_torch_zip(path: Path) -> dict[str, Array]:
    """The tensors of a file of torch 1.6 or later.

    Raises:
        Malformed: it is damaged, or holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path.stat().st_size)
    except (
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as cause:
        raise Malformed(f"it is damaged or cut ({cause})") from cause


def _read_archive(archive: zipfile.ZipFile, size: int) -> dict[str, Array]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Malformed("it is a zip archive, but not one that torch.save wrote (no data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")

    def content(name: str, limit: int) -> bytes:
        entry = entries.get(name)
        if entry is None:
            raise Malformed(f"{name} is not in it")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > min(size, limit):
            raise Malformed(
                f"{name} is compressed or larger than the file, which torch never writes"
            )
        return archive.read(entry)

    if f"{folder}byteorder" in entries and content(f"{folder}byteorder", 64) != b"little":
        raise Malformed("its numbers are big-endian")
    value, _ = Machine(content(pickles[0], MAX_PICKLE_BYTES)).run()

    def storage(wanted: Storage) -> bytes:
        return content(f"{folder}data/{wanted.key}", size)

    return _arrays(value, storage, size)


def read_torch_legacy(path: Path) -> dict[str, Array]:
    """The tensors of a file of torch before 1.6.

    Raises:
        Malformed: it is damaged, or holds more than tensors.
    """
    content = path.read_bytes()
    position, values = 0, []
    kinds: dict[str, str] = {}
    for _ in range(5):  # magic, protocol, facts about the machine, the object, keys of storages
        machine = Machine(content, position)
        value, position = machine.run()
        values.append(value)
        kinds |= machine.kinds
    magic, protocol, system, obj, keys = values
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise Malformed("it is a pickle, but not one that torch.save wrote")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("its numbers are big-endian")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Malformed("its list of storages is damaged")
    places = _legacy_storages(memoryview(content), position, kinds, keys)

    def storage(wanted: Storage) -> memoryview:
        if wanted.key not in places:
            raise Malformed(f"storage {wanted.key[:40]!r} is not in it")
        return places[wanted.key]

    return _arrays(obj, storage, len(content))


def _legacy_storages(
    content: memoryview, position: int, kinds: Mapping[str, str], keys: list[str]
) -> dict[str, memoryview]:
    """The bytes of each storage: one after the other, each after the number of its elements."""
    places = {}
    for key in keys:
        if key not in kinds:
            raise Malformed(f"storage {key[:40]!r} belongs to no tensor")
        if position + 8 > len(content):
            raise Malformed("it ends before its last tensor")
        (count,) = struct.unpack_from("<q", content, position)
        length = count * np.dtype(STORAGES[kinds[key]]).itemsize
        position += 8
        if count < 0 or position + length > len(content):
            left = len(content) - position
            raise Malformed(
                f"a tensor of {count:,} elements is announced where {left:,} bytes are left"
            )
        places[key] = content[position : position + length]
        position += length
    return places


def _state(value: Any) -> dict[str, Tensor]:
    """The tensors by name, also where a training script wrapped them."""
    if not isinstance(value, dict):
        raise Malformed(f"it holds a {type(value).__name__} where named tensors are expected")
    for key in STATE_KEYS:
        if isinstance(value.get(key), dict) and not any(
            isinstance(v, Tensor) for v in value.values()
        ):
            value = value[key]
            break
    tensors = {str(name): item for name, item in value.items() if isinstance(item, Tensor)}
    if not tensors:
        raise Malformed("it holds no named tensors")
    return tensors


def _arrays(
    value: Any, storage: Callable[[Storage], bytes | memoryview], size: int
) -> dict[str, Array]:
    tensors = _state(value)
    total = 0
    flat: dict[str, Array] = {}
    result = {}
    for name, tensor in tensors.items():
        kind, count = tensor.storage.kind, tensor.storage.count
        dtype = np.dtype(STORAGES[kind])
        if tensor.storage.key not in flat:
            data = storage(tensor.storage)
            if len(data) != count * dtype.itemsize:
                raise Malformed(
                    f"{name[:80]!r} says {count:,} elements of {kind}, and {len(data):,} bytes are there"
                )
            flat[tensor.storage.key] = np.frombuffer(data, dtype)
        elements = flat[tensor.storage.key]
        if elements.dtype != dtype or len(elements) != count:
            raise Malformed(f"{name[:80]!r} describes its storage otherwise than another tensor")
        total += math.prod(tensor.shape) * dtype.itemsize
        if total > MAX_ALIASING * size:
            raise Malformed("its tensors are together larger than the file")
        result[name] = _view(name, tensor, elements)
    return result


def _view(name: str, tensor: Tensor, elements: Array) -> Array:
    """The tensor's own elements, contiguous."""
    count = math.prod(tensor.shape)
    last = tensor.offset + sum(
        (n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True)
    )
    if count and not (last < len(elements) and count <= len(elements)):
        raise Malformed(
            f"{name[:80]!r} has shape {tensor.shape}, and its storage {len(elements):,} elements"
        )
    if not count:
        array: Array = np.zeros(tensor.shape, elements.dtype)
    else:
        item = elements.itemsize
        strides = [stride * item for stride in tensor.stride]
        part = elements[tensor.offset :]
        array = np.array(
            np.lib.stride_tricks.as_strided(part, tensor.shape, strides, writeable=False), order="C"
        )
    if tensor.storage.kind == "BFloat16Storage":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array
