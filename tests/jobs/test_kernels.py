"""What a run says of its CPU operators, and that it goes on without own ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import runs
from effnet_core.errors import ConfigError
from effnet_core.events import Event
from effnet_core.files import read_jsonl
from effnet_core.job import EVENTS_NAME
from effnet_core.results import TrainResult
from tests.kernels.library import built
from tests.tiny import tiny_config

pytestmark = pytest.mark.mindspore


def test_a_run_uses_own_operators_and_says_so(one_rank: tuple[Path, TrainResult]) -> None:
    built()  # or there is nothing to see
    said = [row.get("message", "") for row in read_jsonl(one_rank[0] / EVENTS_NAME)]
    assert sum(line.startswith("CPU operators: own (") for line in said) == 1


def test_a_run_without_a_compiler_trains_with_the_built_in_ones(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = runs.train(
        tiny_config("train.epochs=1", "schedule.warmup_epochs=0"), data_dir, tmp_path
    )
    assert result.epochs == 1
    said = [event.message for event in events if event.message.startswith("CPU operators")]
    assert said == [
        "CPU operators: built-in, several times slower than own ones: the C++ compiler "
        "CXX=no-such-compiler was not found; unset CXX or mend it"
    ]
    with pytest.raises(ConfigError, match=r"set runtime\.kernels=auto"):
        runs.train(tiny_config("runtime.kernels=native"), data_dir, tmp_path / "native")
