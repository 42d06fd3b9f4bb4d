"""The ancestor's parameters, one by one: the value given changes the run that its command does.

Every run here really trains, with MindSpore in this process instead of a child, and without the
evaluations, which none of them changes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import mindspore as ms
import mindspore.dataset as ds
import pytest

from effnet_core import api
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.jobs.collective import Group, join_group
from effnet_core.mindvision import __main__ as mindvision
from effnet_core.mindvision.__main__ import config_of, parser
from effnet_core.mindvision.ranks import Launch
from effnet_core.results import EvalResult, TrainResult
from effnet_core.train import loop
from tests.support.images import class_folders
from tests.support.weights import make_checkpoint
from tests.unit.mindvision.test_mindvision import DEFAULTS

BASE = {
    "model": "efficientnet_tiny",
    "device_target": "CPU",
    "data_url": "images",
    "num_parallel_workers": "1",
    "num_classes": "2",
    "batch_size": "4",
    "epoch_size": "2",
    "decay_epoch": "2",
    "ckpt_save_dir": "out",
    "resize": "32",
}
PIECES = {
    "lr_decay_mode": "piecewise_constant_lr",
    "milestone": "2,4",
    "learning_rates": "0.1,0.05",
}

NOT_EVALUATED = EvalResult(seen=2, correct1=1, correct5=2, loss=1.0)
LINE = re.compile(r"Epoch:\[ *(\d+)/.*step:\[ *(\d+)/ *(\d+)\], loss:\[(.*)/.*lr:(.*)\.$")


def arguments(**given: str) -> list[str]:
    return [
        "train",
        *(word for key, value in {**BASE, **given}.items() for word in (f"--{key}", value)),
    ]


def in_this_process(config: RunConfig, data_dir: Path, run_dir: Path) -> TrainResult:
    """``runs.train`` without a child process."""
    api.prepare_training(config, data_dir, run_dir)
    config = api.read_config(run_dir / "config.yaml")
    return loop.train(config, Group(0, 1), data_dir=data_dir, run_dir=run_dir)


class Commands:
    """Runs the command in a fresh folder with two sets of images and some weights, each call once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sources = folder, folder / "sources"
        self.seen: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
        for name, seed in (("images", 0), ("others", 1000)):
            class_folders(self.sources / name / "train", {"cat": 4, "dog": 4}, seed=seed)
            class_folders(self.sources / name / "val", {"cat": 1, "dog": 1}, seed=seed + 100)
        make_checkpoint(
            self.sources / "w.ckpt", variant="efficientnet_tiny", class_names=("cat", "dog")
        )

    def run(self, capsys: pytest.CaptureFixture[str], **given: str) -> dict[str, Any]:
        """What the command prints and leaves behind."""
        key = tuple(sorted(given.items()))
        if key not in self.seen:
            here = self.folder / str(len(self.seen))
            shutil.copytree(self.sources, here)
            before = {path.name for path in here.iterdir()}
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(here)
                patch.setattr(api, "train", in_this_process)
                patch.setattr(loop, "evaluate_network", lambda *_, **__: NOT_EVALUATED)
                assert mindvision.main(arguments(**given)) == 0
            new = sorted({path.name for path in here.iterdir()} - before)
            self.seen[key] = trace(capsys.readouterr().out, here) | {"folders": new}
        return self.seen[key]


def trace(output: str, folder: Path) -> dict[str, Any]:
    lines = [match.groups() for match in map(LINE.match, output.splitlines()) if match]
    return {
        "steps": [(int(epoch), int(step), int(steps)) for epoch, step, steps, _, _ in lines],
        "loss": [loss for *_, loss, _ in lines],
        "first loss": lines[0][3],
        "lr": [float(lr) for *_, lr in lines],
        "pixels": re.findall(r"(\d+) px", output),
        "kept": sorted(path.name for path in folder.rglob("checkpoints/step-*.ckpt")),
    }


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("mindvision"))


@dataclass(frozen=True)
class Change:
    """What another value of a parameter changes."""

    value: str
    what: str
    expected: Callable[[Any, Any], bool] = lambda before, after: before != after
    given: tuple[tuple[str, str], ...] = ()


def more(times: float) -> Callable[[list[Any], list[Any]], bool]:
    return lambda before, after: len(after) == times * len(before)


PIECEWISE = tuple(PIECES.items())
CHANGES = {
    "data_url": Change("others", "loss"),
    "pretrained": Change("w.ckpt", "first loss"),
    "batch_size": Change("2", "steps", more(2)),
    "repeat_num": Change("3", "steps", more(3)),
    "momentum": Change("0.1", "loss"),
    "epoch_size": Change("4", "steps", more(2)),
    "keep_checkpoint_max": Change("1", "kept", lambda _, after: after == ["step-00000004.ckpt"]),
    "ckpt_save_dir": Change("elsewhere", "folders", lambda _, after: "elsewhere" in after),
    "lr_decay_mode": Change("exponential_decay_lr", "lr"),
    "decay_epoch": Change("4", "lr"),
    "smooth_factor": Change("0.4", "first loss"),
    "max_lr": Change("0.05", "lr", lambda _, after: after[0] == 0.05),
    "min_lr": Change("0.02", "lr", lambda before, after: min(after) > min(before)),
    "milestone": Change("1,4", "lr", lambda _, after: after == [0.1, 0.05, 0.05, 0.05], PIECEWISE),
    "learning_rates": Change(
        "0.2,0.05", "lr", lambda _, after: after == [0.2, 0.2, 0.05, 0.05], PIECEWISE
    ),
    "resize": Change("48", "pixels", lambda before, after: (before, after) == (["32"], ["48"])),
}
"""Seen in a whole run each."""

SEEN_BELOW = {
    "device_target": "test_the_device_is_the_one_asked_for",
    "run_distribute": "test_several_processes_train_together_only_if_asked_to",
    "num_parallel_workers": "test_as_many_threads_decode_as_asked_for",
    "dataset_sink_mode": "test_data_sinking_takes_batches_from_the_device_and_gives_the_same_run",
    "num_classes": "test_the_number_of_classes_must_be_that_of_the_images",
}


def test_every_parameter_is_here() -> None:
    assert {*CHANGES, *SEEN_BELOW} == {*DEFAULTS, "data_url", "resize"}
    assert all(callable(globals()[name]) for name in SEEN_BELOW.values())


def test_the_same_values_make_the_same_run(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    first = commands.run(capsys)
    again = commands.run(capsys, momentum="0.9")
    assert first == again
    assert len(first["steps"]) == 4


@pytest.mark.parametrize("parameter", CHANGES)
def test_another_value_changes_the_run(
    parameter: str, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    change = CHANGES[parameter]
    given = dict(change.given)
    before = commands.run(capsys, **given)[change.what]
    after = commands.run(capsys, **{**given, parameter: change.value})[change.what]
    assert before != after
    assert change.expected(before, after)


def test_the_device_is_the_one_asked_for() -> None:
    """This machine has a CPU only, so the others are asked for and named."""
    for device in ("CPU", "Ascend"):
        runtime = config_of(parser().parse_args(arguments(device_target=device))).runtime
        with mock.patch("mindspore.set_device") as chosen:
            assert join_group(runtime) == Group(0, 1)
        chosen.assert_called_once_with(device)
    with pytest.raises(ConfigError, match="device=Ascend is not available on this machine"):
        join_group(runtime)


def test_several_processes_train_together_only_if_asked_to() -> None:
    two = Launch("msrun", 0, 2)
    with mock.patch.object(mindvision, "join_as_rank", return_value=0) as joined:
        assert mindvision.train(parser().parse_args(arguments(run_distribute="True")), two) == 0
        assert joined.call_args.args[1].runtime.world_size == 2
        with pytest.raises(ConfigError, match="run_distribute=False, but msrun started 2"):
            mindvision.train(parser().parse_args(arguments(run_distribute="False")), two)
    assert joined.call_count == 1


def test_as_many_threads_decode_as_asked_for(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    build = ds.GeneratorDataset.map

    def listening(dataset: Any, *args: Any, **settings: Any) -> Any:
        asked.append(settings["num_parallel_workers"])
        return build(dataset, *args, **{**settings, "num_parallel_workers": 1})

    with (
        mock.patch.object(ds.GeneratorDataset, "map", listening),
        mock.patch("effnet_core.data.loader.available_cores", return_value=[0, 1, 2, 3]),
    ):
        commands.run(capsys, num_parallel_workers="3")
    assert set(asked) == {3}


def test_data_sinking_takes_batches_from_the_device_and_gives_the_same_run(
    commands: Commands, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No device here has a queue, so a stand-in hands the batches over; a CPU is refused."""
    with pytest.raises(ConfigError, match=r"does not have on runtime\.device=CPU"):
        config_of(parser().parse_args(arguments(dataset_sink_mode="True")))
    queues = Queues()
    monkeypatch.setattr(ms, "data_sink", queues.data_sink)
    fed = commands.run(capsys, dataset_sink_mode="False", device_target="Ascend")
    assert queues.batches == 0
    assert commands.run(capsys, dataset_sink_mode="True", device_target="Ascend") == fed
    assert (queues.batches, queues.open) == (len(fed["steps"]), 0)


class Queues:
    """What ``mindspore.data_sink`` does on a device that has a queue: batches, again and again."""

    def __init__(self) -> None:
        self.batches = self.open = 0

    def data_sink(self, function: Callable[..., Any], dataset: Any) -> Callable[[], Any]:
        self.open += 1
        dataset.__transfer_dataset__ = mock.Mock(stop_send=self.close)
        rows = dataset.create_tuple_iterator(num_epochs=1, do_copy=False)

        def take() -> Any:
            self.batches += 1
            return function(*next(rows))

        return take

    def close(self) -> None:
        self.open -= 1


def test_the_number_of_classes_must_be_that_of_the_images(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.run(capsys)["steps"]
    with pytest.raises(SystemExit):
        commands.run(capsys, num_classes="3")
    assert re.search(r"num_classes=3 but the data set .* has 2 classes", capsys.readouterr().err)
