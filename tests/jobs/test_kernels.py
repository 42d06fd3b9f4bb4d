"""What a run says of its CPU kernels, and that it continues without native ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.errors import ConfigError
from effnet_core.events import Event
from effnet_core.jobs.job import EVENTS_NAME
from effnet_core.kernels import build
from effnet_core.results import TrainResult
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.system.files import read_jsonl
from tests.kernels.library import built
from tests.support.tiny import small_config

pytestmark = pytest.mark.mindspore


def test_a_run_uses_own_operators_and_says_so(one_rank: tuple[Path, TrainResult]) -> None:
    built()  # or there is nothing to see
    said = [row.get("message", "") for row in read_jsonl(one_rank[0] / EVENTS_NAME)]
    assert sum(line.startswith("CPU kernels: native (") for line in said) == 1


def test_a_run_without_a_compiler_trains_with_the_built_in_ones(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = api.train(
        small_config("train.epochs=1", "schedule.warmup_epochs=0"), data_dir, tmp_path
    )
    assert result.epochs == 1
    said = [event.message for event in events if event.message.startswith("CPU kernels")]
    assert said == [
        "CPU kernels: built-in, several times slower than native ones: the C++ compiler "
        "CXX=no-such-compiler was not found; unset CXX or mend it"
    ]
    with pytest.raises(ConfigError, match=r"set runtime\.kernels=auto"):
        api.train(small_config("runtime.kernels=native"), data_dir, tmp_path / "native")


def train_shortly(data_dir: Path, run_dir: Path, *overrides: str) -> TrainResult:
    config = small_config("train.epochs=1", "schedule.warmup_epochs=0", *overrides)
    return api.train(config, data_dir, run_dir)


def operators_of(run_dir: Path) -> list[str]:
    """What a run said of its operators."""
    said = [row.get("message", "") for row in read_jsonl(run_dir / EVENTS_NAME)]
    return [line for line in said if "CPU kernels" in line]


def compiler_of(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``$CXX`` a script that says its version as c++ does, and compiles by ``line``."""
    script = folder / "compiler"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec c++ --version\n{line}\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))


@pytest.mark.slow  # what is said: tests/unit/kernels/test_build.py
def test_a_run_whose_cache_cannot_be_written_to_trains_with_the_built_in_ones(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built()
    (tmp_path / "file").write_text("")  # root may write to every folder, but not below a file
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert train_shortly(data_dir, tmp_path / "run").epochs == 1
    (line,) = operators_of(tmp_path / "run")
    assert line.startswith("CPU kernels: built-in, several times slower than native ones: ")
    assert "cannot be written to" in line


@pytest.mark.slow  # what is said: tests/unit/kernels/test_build.py
def test_a_run_with_flags_for_another_processor_trains_with_the_built_in_ones(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library's first call ends in SIGILL, as with instructions that the processor lacks."""
    built()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    trap = tmp_path / "trap.cpp"
    trap.write_text('extern "C" int effnet_self_test(int) { __builtin_trap(); }\n')
    line = f'for out; do :; done; exec c++ -shared -fPIC {trap} -o "$out"'
    compiler_of(tmp_path, line, monkeypatch)
    assert train_shortly(data_dir, tmp_path / "run").epochs == 1
    *_, line = operators_of(tmp_path / "run")
    assert line.startswith("CPU kernels: built-in, several times slower than native ones: ")
    assert "this processor cannot run it" in line


@pytest.mark.slow
def test_runs_that_start_at_once_build_once_and_a_damaged_library_is_built_anew(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    count = tmp_path / "count"
    compiler_of(tmp_path, f'echo once >> {count}; exec c++ "$@" -O1', monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(lambda name: train_shortly(data_dir, tmp_path / name), ("one", "other"))
        )
    assert [result.epochs for result in both] == [1, 1]
    assert count.read_text() == "once\n"
    for name in ("one", "other"):
        assert operators_of(tmp_path / name)[-1].startswith("CPU kernels: native (")

    (path,) = (tmp_path / "cache" / build.CACHE_NAME).glob("*.so")
    path.write_bytes(path.read_bytes()[:5000])
    train_shortly(data_dir, tmp_path / "third")
    anew, *_, used = operators_of(tmp_path / "third")
    assert anew.endswith("are built anew: the file is damaged")
    assert used.startswith("CPU kernels: native (")
    assert count.read_text() == "once\nonce\n"
