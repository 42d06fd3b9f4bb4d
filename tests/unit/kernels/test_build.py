"""Making the operators' library: what can go wrong, and what is said then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effnet_core.errors import ConfigError
from effnet_core.kernels import build, choice
from effnet_core.kernels.build import Unavailable, processor_flags
from tests.support.services import missing

ROOT = Path(__file__).parents[3]
AUTO: tuple[choice.Mode, choice.Device] = ("auto", "CPU")

SOUND = 'extern "C" int effnet_self_test(int) { return 0; }\n'
WRONG = 'extern "C" int effnet_self_test(int) { return 3; }\n'
ILLEGAL = 'extern "C" int effnet_self_test(int) { __builtin_trap(); }\n'
AVX512 = frozenset({"avx2", "fma", "avx512f", "avx512vl", "avx512bw", "avx512dq"})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFNET_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one function in place of the operators, which compiles in no time."""
    if not any(shutil.which(name) for name in build.COMPILERS):
        missing("a C++ compiler", how="install g++")
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "one.cpp").write_text(SOUND)
    monkeypatch.setattr(build, "SOURCE", folder)
    return folder / "one.cpp"


def ask(mode: choice.Mode = "auto", device: choice.Device = "CPU") -> tuple[Path | None, list[str]]:
    """The library that a run would get, and the lines that it says."""
    said: list[str] = []
    return choice.library(mode, device, said.append), said


def counting_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the compiler write a line to a file for each compilation."""
    count = folder / "count"
    script = folder / "counting-c++"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || {{ echo once >> {count}; sleep 1; }}\nexec c++ "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return count


def test_it_is_built_once_and_found_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = counting_compiler(tmp_path, monkeypatch)
    before = choice.describe(*AUTO)
    assert before.native
    assert before.reason.startswith("built at first use, ")
    path, said = ask()
    assert path == before.library
    assert [line.partition(" with")[0].partition(" (")[0] for line in said] == [
        "building the CPU kernels",
        "CPU kernels: native",
    ]
    assert len(said) == 2
    again, said = ask()
    assert again == path
    assert len(said) == 1
    assert count.read_text() == "once\n"
    assert str(choice.describe(*AUTO)) == f"native kernels: {build.plan()}"


def test_another_source_compiler_or_processor_is_another_library(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [build.plan().library]
    source.write_text(SOUND + "// changed\n")
    paths.append(build.plan().library)
    monkeypatch.setattr(build, "processor_flags", lambda *_: ("-O1",))
    paths.append(build.plan().library)
    counting_compiler(tmp_path, monkeypatch)
    paths.append(build.plan().library)
    assert len(set(paths)) == 4


@pytest.mark.parametrize(
    ("machine", "features", "flags"),
    [
        ("x86_64", frozenset({"avx2", "fma"}), ("-mavx2", "-mfma")),
        (
            "x86_64",
            AVX512,
            ("-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
        ),
        ("x86_64", AVX512 - {"avx512bw"}, ("-mavx2", "-mfma")),
        ("aarch64", frozenset(), ()),
    ],
)
def test_flags_of_a_processor(
    machine: str, features: frozenset[str], flags: tuple[str, ...]
) -> None:
    assert processor_flags(machine, features) == flags


@pytest.mark.parametrize(
    ("machine", "features", "words"),
    [
        ("x86_64", frozenset({"sse2"}), "this processor has no AVX2 and no FMA"),
        ("x86_64", frozenset({"avx2"}), "this processor has no FMA"),
        ("s390x", frozenset(), "they are for x86-64 and aarch64, this processor is s390x"),
    ],
)
def test_processors_that_are_left_to_the_built_in_operators(
    machine: str, features: frozenset[str], words: str
) -> None:
    with pytest.raises(Unavailable, match=words):
        processor_flags(machine, features)


def require_fallback(words: str) -> None:
    """The run continues with built-in kernels and says why; ``native`` is an error with the same words."""
    path, said = ask()
    assert path is None
    assert said[-1].startswith("CPU kernels: built-in, several times slower than native ones: ")
    assert words in said[-1]
    with pytest.raises(ConfigError, match=r"runtime\.kernels=native, but") as caught:
        ask("native")
    assert words in str(caught.value)


LEAVES_A_MARK = """
#include <cstdio>
#include <cstdlib>
__attribute__((constructor)) static void mark() { std::fclose(std::fopen(std::getenv("MARK"), "w")); }
extern "C" int effnet_self_test(int) { return 0; }
"""


@pytest.mark.parametrize("how", ["foreign file", "foreign folder", "open folder"])
def test_a_library_that_somebody_else_may_have_put_there_is_never_loaded(
    how: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0 and how != "open folder":
        pytest.skip("only root can give a file away")
    monkeypatch.setenv("MARK", str(tmp_path / "loaded"))
    source.write_text(LEAVES_A_MARK)
    library, _ = ask()
    assert library is not None
    assert (tmp_path / "loaded").exists()
    (tmp_path / "loaded").unlink()
    for folder in (library.parent, library.parent.parent, tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    if how == "open folder":
        library.parent.chmod(0o777)
    else:
        os.chown(library if how == "foreign file" else library.parent, 65534, 65534)
    assert choice.describe(*AUTO).native is False
    require_fallback("is not used: ")
    assert not (tmp_path / "loaded").exists()


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    require_fallback("no C++ compiler was found; install g++ or clang++, or set CXX")
    assert choice.describe(*AUTO).native is False


def test_with_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    require_fallback("the C++ compiler CXX=no-such-compiler was not found")


def test_with_something_that_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    require_fallback("does not run")


def test_with_flags_that_the_compiler_refuses(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "processor_flags", lambda *_: ("-march=no-such-processor",))
    require_fallback("could not compile them")


def test_with_instructions_that_the_processor_lacks(source: Path) -> None:
    """It dies in the child that tests it, not in the run."""
    source.write_text(ILLEGAL)
    require_fallback("ended its test with SIG")
    assert list(build.cache_path(build.CACHE_NAME).glob("*.so")) == []


def test_with_a_compiler_that_gets_it_wrong(source: Path) -> None:
    source.write_text(WRONG)
    require_fallback("does not compute what it should")


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "without its note"])
def test_a_damaged_library_is_built_anew(source: Path, damage: str) -> None:
    path, _ = ask()
    assert path is not None
    whole = path.read_bytes()
    if damage == "without its note":
        path.with_suffix(".json").unlink()
    else:
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 0xFF
        made = {"cut": whole[: len(whole) // 2], "changed": bytes(changed), "empty": b""}
        path.write_bytes(made[damage])
    assert "built anew at next use" in choice.describe(*AUTO).reason
    again, said = ask()
    assert again == path
    assert "built anew" in said[0]
    assert build.problem_of(path) is None


def test_a_cache_that_cannot_be_written_to(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EFFNET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    require_fallback("cannot be written to")


def test_a_library_in_a_cache_that_cannot_be_written_to_is_used(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = ask()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing must be written")

    monkeypatch.setattr(build, "cache_dir", refuse)
    monkeypatch.setattr(build, "alone", refuse)
    assert ask()[0] == path


ASK = """
import sys
from pathlib import Path
from effnet_core.kernels import build
build.SOURCE = Path(sys.argv[1])
print(build.library(build.plan(), lambda line: None))
"""


def test_processes_that_build_at_once_build_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = counting_compiler(tmp_path, monkeypatch)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(source.parent)],
            cwd=ROOT,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = {process.communicate()[0] for process in processes}
    assert answers == {f"{build.plan().library}\n"}
    assert count.read_text() == "once\n"


def test_settings_that_ask_for_the_built_in_ones() -> None:
    assert ask("builtin") == (None, [])
    assert str(choice.describe("builtin", "CPU")) == ("built-in kernels: runtime.kernels=builtin")
    assert ask("auto", "GPU") == (None, [])
    with pytest.raises(ConfigError, match=r"runtime\.kernels=native is for"):
        ask("native", "GPU")


def test_the_sources_are_in_the_package() -> None:
    names = {path.name for path in build.sources(".h", ".cpp")}
    assert {"vector.h", "depthwise.cpp", "pointwise.cpp", "self_test.cpp"} <= names
    text = (ROOT / "pyproject.toml").read_text()
    assert '"kernels/source/*"' in text
