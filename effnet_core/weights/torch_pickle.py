"""torch's pickles as a program for a stack machine that cannot act.

A pickle is a program for a stack machine. The machine here knows only the instructions that a file of
tensors needs, and turns the few known functions of torch into plain values itself; no name in a file is
ever looked up, called or imported. What a training script saves beside the weights (``BESIDE``) becomes
``Nothing``. Whatever else a file asks for is refused by its name. What a program makes is charged before it
is made (``MAX_STEPS``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
"""The names that make something of a file; each is a case of ``Machine.reduce``."""

DICTIONARIES = frozenset(
    {
        "collections.defaultdict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
    }
)
"""Classes of which a plain dictionary with the same entries is made."""

BESIDE = frozenset(
    {
        "_codecs.encode",
        "argparse.Namespace",
        "builtins.dict",
        "builtins.int",
        "builtins.list",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.dtypes.Float32DType",
        "numpy.dtypes.Float64DType",
        "numpy.dtypes.Int64DType",
        "numpy.ndarray",
        "pathlib.Path",
        "pathlib.PosixPath",
        "torch.device",
        "torch.Size",
        "torch.bfloat16",
        "torch.float16",
        "torch.float32",
    }
)
"""What training scripts save beside the weights: the options of the run, a score, a device. Nothing is
made of them; they become ``Nothing``."""

MAX_STEPS = 1_000_000
"""Instructions, and entries of dictionaries that one of them makes, of a pickle: each takes some hundred
bytes at most besides its own. A state with optimizer of the largest network has 100,000."""
MAX_DIMS = 16


class Malformed(Exception):
    """Why a file is not accepted; its text ends a sentence."""


@dataclass(frozen=True)
class Global:
    """A name that the file refers to; never looked up."""

    name: str


class Nothing:
    """In the place of a value that weights do not need; holds nothing."""


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


_MARK = object()


class Machine:
    """The stack machine of pickles, without anything that could act."""

    def __init__(self, content: bytes, position: int = 0) -> None:
        self.content = content
        self.position = position
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0
        self.kinds: dict[str, str] = {}
        """Kind of every storage that was referred to, by its key."""

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
        """Text of the program, after its length."""
        return self.take(self.number(form)).decode("utf-8", "surrogatepass")

    def skipped(self, form: str) -> Nothing:
        """Bytes, of which no tensor here consists."""
        self.take(self.number(form))
        return Nothing()

    def integer(self, form: str) -> int:
        """A long integer of the program."""
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
        """The topmost values, taken off the stack."""
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
        """Put keys and values into the topmost dictionary."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed("its pickle is damaged")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise Malformed("it has a key that is not text")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        """Put values into the topmost list."""
        if not isinstance(self.stack[-1], list):
            raise Malformed("its pickle is damaged")
        self.stack[-1].extend(items)

    def build(self) -> None:
        """The state of an object, which is dropped: a dictionary's ``_metadata``, options of a run."""
        state = self.pop(1)[0]
        if isinstance(self.stack[-1], Nothing):
            return
        if not (isinstance(self.stack[-1], dict) and isinstance(state, dict)):
            raise Malformed("it sets the state of an object")

    def new(self) -> Any:
        """A new object of one of the classes that are known; it is not of that class here."""
        kind, arguments = self.pop(2)
        if isinstance(kind, Global) and arguments == ():
            if kind.name in DICTIONARIES:
                return {}
            if kind.name in BESIDE:
                return Nothing()
        raise Malformed("it makes an object that is not known")

    def named(self, name: str) -> Global:
        """A name, if it is one of the known."""
        module, _, last = name.rpartition(".")
        if name in FUNCTIONS | DICTIONARIES | BESIDE or (module == "torch" and last in STORAGES):
            return Global(name)
        raise Malformed(f"it asks for {name[:80]!r}, which is not a tensor; nothing of it was run")

    def stack_global(self) -> Global:
        """The name that lies on the stack, if it is one of the known."""
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
        self.kinds[key] = kind.name.removeprefix("torch.")
        return Storage(self.kinds[key], key, count)

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
        if function.name in DICTIONARIES:
            return {}
        if function.name in BESIDE:
            return Nothing()
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


def _memoize(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


# What each instruction leaves on the stack ...
_PUSHES: dict[bytes, Callable[[Machine], Any]] = {
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
    b"B": lambda m: m.skipped("<I"),
    b"C": lambda m: m.skipped("<B"),
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
    b"\x81": lambda m: m.new(),
}

# ... and what it does besides.
_ACTIONS: dict[bytes, Callable[[Machine], Any]] = {
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
