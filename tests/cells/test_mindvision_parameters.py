"""The ancestor's parameters: what a value changes in the settings, and that the command does a run by them.

That another value of a setting changes the run is shown by ``test_every_setting.py``, so the parameters are
followed to the settings one by one, and into runs all at once. Those really train, with MindSpore in this
process instead of a child, and without the evaluations, which no parameter changes.
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
import pytest

from effnet_core import api
from effnet_core.config.load import read_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.jobs.collective import Group, join_group
from effnet_core.jobs.launch import write_job
from effnet_core.mindvision import __main__ as mindvision
from effnet_core.mindvision.__main__ import config_of, parser
from effnet_core.mindvision.ranks import Launch
from effnet_core.results import EvalResult, TrainResult
from effnet_core.train import loop
from tests.support import every_setting
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
    prepared = api.prepare_training(config, data_dir, run_dir)
    assert isinstance(prepared, api.Prepared)
    write_job(prepared.job, prepared.config, run_dir)
    return loop.train(prepared.config, Group(0, 1), data_dir=data_dir, run_dir=run_dir)


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
            here = self.folder / str(len([*self.folder.iterdir()]))
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
    [config] = folder.glob("*/config.yaml")
    return {
        "steps": [(int(epoch), int(step), int(steps)) for epoch, step, steps, _, _ in lines],
        "loss": [loss for *_, loss, _ in lines],
        "lr": [float(lr) for *_, lr in lines],
        "pixels": re.findall(r"(\d+) px", output),
        "kept": sorted(path.name for path in folder.rglob("checkpoints/step-*.ckpt")),
        "settings": flat(read_config(config)),
    }


def flat(config: RunConfig) -> dict[str, Any]:
    """The settings by their keys."""
    sections = config.model_dump().items()
    return {f"{name}.{key}": value for name, keys in sections for key, value in keys.items()}


@pytest.fixture(scope="module")
def commands(one_block: None, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("mindvision"))


PIECEWISE = tuple(PIECES.items())


@dataclass(frozen=True)
class Change:
    """What another value of a parameter changes in the settings."""

    value: str
    settings: dict[str, Any]
    """All that change, by key."""
    given: tuple[tuple[str, str], ...] = ()


CHANGES = {
    "device_target": Change("Ascend", {"runtime.device": "Ascend"}),
    "pretrained": Change("w.ckpt", {"model.weights": "w.ckpt"}),
    "num_parallel_workers": Change("3", {"data.workers": 3}),
    "dataset_sink_mode": Change("True", {"data.sink": True}, (("device_target", "Ascend"),)),
    # MindVision's smoothing spreads over the other classes, ours over all.
    "num_classes": Change("3", {"model.num_classes": 3, "train.label_smoothing": 0.1 * 3 / 2}),
    # Its rate is that of the run, ours that of 256 images.
    "batch_size": Change(
        "2",
        {
            "data.global_batch_size": 2,
            "evaluate.per_device_batch_size": 2,
            "optim.base_lr": 0.1 * 256 / 2,
        },
    ),
    "repeat_num": Change("3", {"data.repeats": 3}),
    "momentum": Change("0.1", {"optim.momentum": 0.1}),
    "epoch_size": Change("4", {"train.epochs": 4}),
    "keep_checkpoint_max": Change("1", {"train.keep_checkpoints": 1}),
    "lr_decay_mode": Change(
        "exponential_decay_lr",
        {"schedule.name": "exponential", "schedule.min_lr": 0.0, "schedule.stair": False},
    ),
    "decay_epoch": Change("4", {"schedule.decay_epochs": 4}),
    "smooth_factor": Change("0.4", {"train.label_smoothing": 0.4 * 2}),
    "max_lr": Change("0.05", {"optim.base_lr": 0.05 * 256 / 4}),
    "min_lr": Change("0.02", {"schedule.min_lr": 0.02}),
    "milestone": Change("1,4", {"schedule.milestones": (1, 4)}, PIECEWISE),
    "learning_rates": Change("0.2,0.05", {"schedule.rates": (0.2, 0.05)}, PIECEWISE),
    "resize": Change("48", {"data.image_size": 48}),
}

SEEN_BELOW = {
    "data_url": "test_the_command_does_a_run_by_all_its_parameters",
    "ckpt_save_dir": "test_the_command_does_a_run_by_all_its_parameters",
    "run_distribute": "test_several_processes_train_together_only_if_asked_to",
}
"""No settings, but arguments of the run."""


def test_every_parameter_is_here() -> None:
    assert {*CHANGES, *SEEN_BELOW} == {*DEFAULTS, "data_url", "resize"}
    assert all(callable(globals()[name]) for name in SEEN_BELOW.values())
    proved = {*every_setting.UNIT, *every_setting.CELLS, *every_setting.JOBS}
    assert {key for change in CHANGES.values() for key in change.settings} <= proved


@pytest.mark.parametrize("parameter", CHANGES)
def test_another_value_changes_these_settings_and_no_others(parameter: str) -> None:
    change = CHANGES[parameter]

    def settings(**given: str) -> dict[str, Any]:
        return flat(config_of(parser().parse_args(arguments(**given))))

    before, after = (
        settings(**dict(change.given)),
        settings(**{**dict(change.given), parameter: change.value}),
    )
    changed = {key: value for key, value in after.items() if value != before[key]}
    assert changed == {
        key: pytest.approx(value) if isinstance(value, float) else value
        for key, value in change.settings.items()
    }


def test_the_same_values_make_the_same_run(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    first = commands.run(capsys)
    again = commands.run(capsys, momentum="0.9")
    assert first == again
    assert len(first["steps"]) == 4
    assert first["pixels"] == ["32"]
    assert first["kept"] == ["step-00000002.ckpt", "step-00000004.ckpt"]
    assert first["folders"] == ["out", "out.data"]
    assert first["settings"] == flat(config_of(parser().parse_args(arguments())))


EVERYTHING = {
    **PIECES,
    "data_url": "others",
    "pretrained": "w.ckpt",
    "num_parallel_workers": "3",
    "batch_size": "2",
    "repeat_num": "3",
    "momentum": "0.1",
    "epoch_size": "3",
    "keep_checkpoint_max": "1",
    "ckpt_save_dir": "elsewhere",
    "milestone": "1,36",
    "learning_rates": "0.2,0.05",
    "smooth_factor": "0.4",
    "resize": "48",
}


def test_the_command_does_a_run_by_all_its_parameters(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    run = commands.run(capsys, **EVERYTHING)
    assert run["steps"] == [(e, s, 12) for e in range(3) for s in range(1, 13)]
    assert run["lr"] == [0.2, *[0.05] * 35]
    assert run["pixels"] == ["48"]
    assert run["kept"] == ["step-00000036.ckpt"]
    assert run["folders"] == ["elsewhere", "elsewhere.data"]
    asked_for = flat(config_of(parser().parse_args(arguments(**EVERYTHING))))
    used = run["settings"] | {"model.weights": Path(run["settings"]["model.weights"]).name}
    left_open = {key for key, value in asked_for.items() if value is None}  # the weights say it
    assert {key for key in used if used[key] != asked_for[key]} <= left_open


def test_other_images_make_another_run(
    commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = commands.run(capsys), commands.run(capsys, data_url="others")
    assert before["loss"] != after["loss"]
    assert {key for key in before if before[key] != after[key]} == {"loss"}


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
    sunk = commands.run(capsys, dataset_sink_mode="True", device_target="Ascend")
    assert sunk == fed | {"settings": fed["settings"] | {"data.sink": True}}
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
