"""Compiles native code with the system's C++ compiler, once for a processor and a compiler.

A library lies in the cache under a name made from sources, flags and compiler, beside a note with its
SHA-256. Before it is used a child process loads it and compares what it computes with plain loops: what
this processor cannot run ends that child and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from effnet_core.errors import DataError
from effnet_core.storage.cache import cache_dir, cache_path, cached
from effnet_core.system.files import atomic_path, remove_temporaries, write_json
from effnet_core.system.locks import alone, scratch_folder
from effnet_core.system.machine import processor_features
from effnet_core.text import os_reason

SOURCE = Path(__file__).parent / "source"
CACHE_NAME = "operators"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-pthread"),
    # Products and sums in one rounding; nothing that would let NaN or infinity go unnoticed.
    *("-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi"),
)
BUILD_LIMIT_S = 300
TEST_LIMIT_S = 120

_TEST = "import ctypes, sys; sys.exit(min(ctypes.CDLL(sys.argv[1]).effnet_self_test(0), 99))"


@dataclass(frozen=True)
class Library:
    """Sources that are compiled together, with a test of their own."""

    name: str
    what: str
    """In words, for messages."""
    inside: str = "."
    """Folder of its files; headers come from all."""

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return SOURCE / self.inside


OPERATORS = Library("operators", "CPU kernels")
"""What MindSpore computes with on CPUs."""
PIXELS = Library("pixels", "kernels that resize pictures", "pixels")
"""What labelling resizes pictures with."""


class Unavailable(Exception):
    """Native code cannot be had; the message says why, and what would help."""


@dataclass(frozen=True)
class BuildPlan:
    """How the library is made on this machine."""

    compiler: str
    version: str
    """The first line of what the compiler says of itself."""
    flags: tuple[str, ...]
    """That depend on the processor."""
    library: Path
    of: Library = OPERATORS

    def __str__(self) -> str:
        instructions = (
            " ".join(flag.removeprefix("-m") for flag in self.flags) or platform.machine()
        )
        return f"{instructions}; {Path(self.compiler).name}: {self.version}"


def plan(of: Library = OPERATORS) -> BuildPlan:
    """How a library would be made here, and where it lies once it is.

    Raises:
        Unavailable: no compiler, a processor that they are too slow on, or a cache that others write to.
    """
    flags = processor_flags(platform.machine(), processor_features())
    compiler = find_compiler()
    try:
        said = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as cause:
        raise Unavailable(f"the C++ compiler {compiler} does not run ({cause})") from cause
    version = said.stdout.partition("\n")[0].strip()
    digest = hashlib.sha256(json.dumps([compiler, version, FLAGS, flags]).encode())
    for path in dict.fromkeys([*sources(".h", ".cpp", of=of), *sources(".h")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    path = cache_path(CACHE_NAME) / f"{of.name}-{digest.hexdigest()[:20]}.so"
    try:
        return BuildPlan(compiler, version, flags, cached(path), of)
    except DataError as cause:
        raise Unavailable(str(cause)) from cause


def sources(*endings: str, of: Library = OPERATORS) -> list[Path]:
    """The C++ files of a library with one of ``endings``, in order."""
    return sorted(path for path in of.folder.iterdir() if path.suffix in endings)


def find_compiler() -> str:
    """The path of ``$CXX``, or else of the first C++ compiler there is.

    Raises:
        Unavailable: there is none.
    """
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    if wanted:
        raise Unavailable(f"the C++ compiler CXX={wanted} was not found; unset CXX or mend it")
    raise Unavailable("no C++ compiler was found; install g++ or clang++, or set CXX")


def processor_flags(machine: str, features: frozenset[str]) -> tuple[str, ...]:
    """The compiler's flags for a processor.

    Args:
        machine: as ``platform.machine()`` names it.
        features: as ``machine.processor_features`` gives them.

    Raises:
        Unavailable: an x86 processor without AVX2 and FMA, or one of another family.
    """
    if machine in ("aarch64", "arm64"):
        return ()  # NEON is always there
    if machine not in ("x86_64", "AMD64"):
        raise Unavailable(f"they are for x86-64 and aarch64, this processor is {machine}")
    missing = [name.upper() for name in ("avx2", "fma") if name not in features]
    if missing:
        raise Unavailable(f"this processor has no {' and no '.join(missing)}")
    flags = ["-mavx2", "-mfma"]
    wide = ("avx512f", "avx512vl", "avx512bw", "avx512dq")
    if all(name in features for name in wide):
        flags += [f"-m{name}" for name in wide]
    return tuple(flags)


def library(plan: BuildPlan, tell: Callable[[str], None]) -> Path:
    """The library of a plan, sound and tested; built if it is not there.

    Any number of processes may ask at once: one builds, the others wait for it.

    Args:
        plan: what is built, and where it is put.
        tell: is given a line before something is built.

    Raises:
        Unavailable: it cannot be built or kept, or it does not compute what it should.
    """
    path = plan.library
    if path.exists() and problem_of(path) is None:
        return path
    try:
        cache_dir(CACHE_NAME)
        with alone(path):
            problem = problem_of(path) if path.exists() else None
            if problem is not None:
                tell(f"the {plan.of.what} in {path} are built anew: the file {problem}")
            if problem is not None or not path.exists():
                _build(plan, tell)
    except DataError as cause:
        raise Unavailable(str(cause)) from cause
    except OSError as cause:
        raise Unavailable(f"{path} cannot be written ({os_reason(cause)})") from cause
    return path


def problem_of(path: Path) -> str | None:
    """What is wrong with a library, in words that can stand after ``the file``; None when it is sound."""
    try:
        wanted = json.loads(_note(path).read_text(encoding="utf-8"))["sha256"]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError):
        return "or the note beside it cannot be read"
    if found != wanted:
        return "is damaged"
    return _test(path)


def _note(path: Path) -> Path:
    return path.with_suffix(".json")


def _build(plan: BuildPlan, tell: Callable[[str], None]) -> None:
    """Compile, test and keep the library; the caller holds its lock."""
    tell(f"building the {plan.of.what} with {plan.compiler} (once on this machine, 2-20 s)")
    started = time.perf_counter()
    files = [str(path) for path in sources(".cpp", of=plan.of)]
    remove_temporaries(plan.library.parent, [plan.library.name, _note(plan.library).name])
    with atomic_path(plan.library) as temporary:
        command = [plan.compiler, *FLAGS, *plan.flags, *files, "-o", str(temporary)]
        _compile(command)
        problem = _test(temporary)
        if problem is not None:
            raise Unavailable(f"what {plan.compiler} made of them {problem}")
        note = {
            "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
            "compiler": plan.compiler,
            "version": plan.version,
            "flags": plan.flags,
            "seconds": round(time.perf_counter() - started, 1),
        }
        write_json(_note(plan.library), note)


def _compile(command: list[str]) -> None:
    # With a folder of its own: a compiler that is killed leaves its files there, not in the cache.
    with scratch_folder("compile") as folder:
        environment = {**os.environ, "TMPDIR": str(folder)}
        try:
            done = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=BUILD_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as cause:
            raise Unavailable(f"{command[0]} could not compile them ({cause})") from cause
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [
            done.stderr.strip()
        ]
        raise Unavailable(
            f"{command[0]} could not compile them ({lines[0][:200] or done.returncode})"
        )


def _test(path: Path) -> str | None:
    """What the operators' own test says, in a process of its own; None when all is well."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TEST, str(path)],
            capture_output=True,
            timeout=TEST_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as cause:
        return f"could not be tested ({cause})"
    code = done.returncode
    if code == 0:
        return None
    if code < 0:
        return f"ended its test with {signal.Signals(-code).name}: this processor cannot run it"
    return "does not compute what it should"
