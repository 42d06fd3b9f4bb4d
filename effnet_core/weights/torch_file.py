"""Files that ``torch.save`` wrote, read without torch and without executing a pickle.

A pickle is a program for a stack machine. The machine here knows only the instructions that a file of
tensors needs, and turns the few known functions of torch into plain values itself; no name in a file is
ever looked up, called or imported. Whatever else a file asks for is refused by its name. What a program
makes is charged before it is made (``MAX_STEPS``), and a tensor only where the bytes for it are in the file.

Source of the format: torch/serialization.py (zip files since 1.6, and the older sequence of pickles).
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STORAGES: Mapping[str, str] = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # widened to float32: numpy has no such type
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
"""torch's names of storages, and what their bytes are."""

FUNCTIONS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    }
)
"""The names that a file may call; each is a case of ``_Machine._reduce``."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_PICKLE_BYTES = 64 << 20
MAX_STEPS = 1_000_000
"""Instructions, and entries of dictionaries that one of them makes, of a pickle: each takes some hundred
bytes at most besides its own. A state with optimizer of the largest network has 100,000."""
MAX_DIMS = 16
MAX_ALIASING = 2
"""How many times the file's size all tensors together may have, where several share a storage."""
STATE_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
"""Where training scripts put the weights inside a larger checkpoint, best first."""


class Malformed(Exception):
    """Why a file is not accepted; its text ends a sentence."""


@dataclass(frozen=True)
class Global:
    """A name that the file refers to; never looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Where a tensor's bytes are to be found."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as the file describes it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


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
    value, _ = _Machine(content(pickles[0], MAX_PICKLE_BYTES)).run()

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
    for _ in range(5):  # magic, protocol, facts about the machine, the object, keys of storages
        value, position = _Machine(content, position).run()
        values.append(value)
    magic, protocol, system, obj, keys = values
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        raise Malformed("it is a pickle, but not one that torch.save wrote")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Malformed("its numbers are big-endian")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Malformed("its list of storages is damaged")
    kinds = {tensor.storage.key: tensor.storage.kind for tensor in _state(obj).values()}
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
    if all(name.startswith("module.") for name in tensors):  # torch.nn.DataParallel
        tensors = {name.removeprefix("module."): item for name, item in tensors.items()}
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


_MARK = object()


class _Machine:
    """The stack machine of pickles, without anything that could act."""

    def __init__(self, content: bytes, position: int = 0) -> None:
        self.content = content
        self.position = position
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def run(self) -> tuple[Any, int]:
        """The value of the program at the current position, and where it ends."""
        try:
            while True:
                code = self.take(1)
                if code == b".":
                    return self.stack.pop(), self.position
                self.step(code)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as cause:
            raise Malformed("its pickle is damaged") from cause

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        if count < 0 or count > len(self.content) - self.position:
            raise Malformed("it ends too early")
        self.position += count
        return self.content[self.position - count : self.position]

    def number(self, form: str) -> Any:
        """A number of the program."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """A text of the program up to a line's end."""
        end = self.content.index(b"\n", self.position)
        return self.take(end + 1 - self.position)[:-1].decode("utf-8")

    def text(self, form: str) -> str:
        return self.take(self.number(form)).decode("utf-8", "surrogatepass")

    def integer(self, form: str) -> int:
        return int.from_bytes(self.take(self.number(form)), "little", signed=True)

    def marked(self) -> list[Any]:
        """What lies above the topmost mark, taken off the stack."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise Malformed("its pickle is damaged")

    def pop(self, count: int) -> tuple[Any, ...]:
        items = tuple(self.stack[-count:])
        if len(items) != count or any(item is _MARK for item in items):
            raise Malformed("its pickle is damaged")
        del self.stack[-count:]
        return items

    def step(self, code: bytes) -> None:
        """Do one instruction."""
        self.charge(1)
        if code in _PUSHES:
            self.stack.append(_PUSHES[code](self))
        elif code in _ACTIONS:
            _ACTIONS[code](self)
        else:
            raise Malformed(
                f"its pickle has the instruction {code!r}, which no file of tensors needs"
            )

    def charge(self, steps: int) -> None:
        """Count what is going to be made."""
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise Malformed(f"its pickle makes more than {MAX_STEPS:,} objects")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed("its pickle is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise Malformed("it has a key that is not text")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Malformed("its pickle is damaged")
        self.stack[-1].extend(items)

    def build(self) -> None:
        """The state of an object: only that of a dictionary of tensors (``_metadata``), not needed."""
        state = self.pop(1)[0]
        if not (isinstance(self.stack[-1], dict) and isinstance(state, dict)):
            raise Malformed("it sets the state of an object")

    def named(self, name: str) -> Global:
        """A name, if it is one of the known."""
        module, _, last = name.rpartition(".")
        if name in FUNCTIONS or (module == "torch" and last in STORAGES):
            return Global(name)
        raise Malformed(f"it asks for {name[:80]!r}, which is not a tensor; nothing of it was run")

    def stack_global(self) -> Global:
        module, name = self.pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Malformed("its pickle is damaged")
        return self.named(f"{module}.{name}")

    def persistent(self) -> Storage:
        """The storage that a reference describes."""
        # Newer legacy files add a sixth value: the view of a storage, which tensors no longer use.
        what, kind, key, _location, count, *view = self.pop(1)[0]
        known = isinstance(kind, Global) and kind.name.removeprefix("torch.") in STORAGES
        if what != "storage" or not known or view not in ([], [None]):
            raise Malformed("it refers to something that is not a storage")
        if not isinstance(key, str) or not _is_count(count):
            raise Malformed("a storage is described wrongly")
        return Storage(kind.name.removeprefix("torch."), key, count)

    def ordered(self, pairs: Any = ()) -> dict[Any, Any]:
        """A dictionary of pairs; the same pairs may be asked for again and again."""
        self.charge(len(pairs))
        if not all(isinstance(pair, (list, tuple)) and isinstance(pair[0], str) for pair in pairs):
            raise Malformed("it has a key that is not text")
        return {pair[0]: pair[1] for pair in pairs}

    def reduce(self) -> Any:
        """What torch's function would make of its arguments."""
        function, arguments = self.pop(2)
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise Malformed("it calls something that is not a function of torch")
        if function.name == "collections.OrderedDict":
            return self.ordered(*arguments)
        if function.name.endswith("_rebuild_parameter"):
            if not isinstance(arguments[0], Tensor):
                raise Malformed("a parameter is not a tensor")
            return arguments[0]
        if function.name.endswith("_rebuild_tensor_v2"):
            return _tensor(*arguments[:4])
        raise Malformed(f"it calls {function.name!r}")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> Tensor:
    numbers = isinstance(shape, tuple) and isinstance(stride, tuple)
    if not (
        numbers and isinstance(storage, Storage) and all(map(_is_count, (offset, *shape, *stride)))
    ):
        raise Malformed("a tensor is described wrongly")
    if len(shape) != len(stride) or len(shape) > MAX_DIMS:
        raise Malformed("a tensor is described wrongly")
    return Tensor(storage, offset, shape, stride)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _memoize(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


# What each instruction leaves on the stack ...
_PUSHES: dict[bytes, Callable[[_Machine], Any]] = {
    b"(": lambda m: _MARK,
    b"}": lambda m: {},
    b"]": lambda m: [],
    b")": lambda m: (),
    b"N": lambda m: None,
    b"\x88": lambda m: True,
    b"\x89": lambda m: False,
    b"K": lambda m: m.number("<B"),
    b"M": lambda m: m.number("<H"),
    b"J": lambda m: m.number("<i"),
    b"\x8a": lambda m: m.integer("<B"),
    b"G": lambda m: m.number(">d"),
    b"X": lambda m: m.text("<I"),
    b"\x8c": lambda m: m.text("<B"),
    b"h": lambda m: m.memo[m.number("<B")],
    b"j": lambda m: m.memo[m.number("<I")],
    b"t": lambda m: tuple(m.marked()),
    b"\x85": lambda m: m.pop(1),
    b"\x86": lambda m: m.pop(2),
    b"\x87": lambda m: m.pop(3),
    b"c": lambda m: m.named(f"{m.line()}.{m.line()}"),
    b"\x93": lambda m: m.stack_global(),
    b"Q": lambda m: m.persistent(),
    b"R": lambda m: m.reduce(),
}

# ... and what it does besides.
_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"q": lambda m: _memoize(m, m.number("<B")),
    b"r": lambda m: _memoize(m, m.number("<I")),
    b"\x94": lambda m: _memoize(m, len(m.memo)),
    b"s": lambda m: m.set_items(list(m.pop(2))),
    b"u": lambda m: m.set_items(m.marked()),
    b"a": lambda m: m.append(list(m.pop(1))),
    b"e": lambda m: m.append(m.marked()),
    b"b": lambda m: m.build(),
}
