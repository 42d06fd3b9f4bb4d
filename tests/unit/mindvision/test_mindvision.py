"""The ancestor's parameters: names, defaults, and that each one changes the settings of the run."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from effnet_core.config.load import load_config
from effnet_core.config.recipes import recipe_names
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.events import Event
from effnet_core.mindvision.__main__ import config_of, evaluate, log_line, parser, train
from effnet_core.mindvision.ranks import Launch, forget_launch
from effnet_core.train.schedule import lr_schedule

DEFAULTS = {
    "device_target": "GPU",
    "pretrained": False,
    "run_distribute": True,
    "num_parallel_workers": 8,
    "dataset_sink_mode": False,
    "num_classes": 1000,
    "batch_size": 64,
    "repeat_num": 1,
    "momentum": 0.9,
    "epoch_size": 300,
    "keep_checkpoint_max": 10,
    "ckpt_save_dir": "./efficientnet",
    "lr_decay_mode": "cosine_decay_lr",
    "decay_epoch": 300,
    "smooth_factor": 0.1,
    "max_lr": 0.1,
    "min_lr": 0.00001,
    "milestone": [],
    "learning_rates": [],
}
"""As on MindVision's page, which has two more: data_url (none) and resize (the model's own, 224 for B0)."""


def options(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(["train", "--data_url", "images", *arguments])


def config(*arguments: str, world_size: int = 1) -> RunConfig:
    return config_of(options(*arguments), world_size=world_size)


def test_names_and_defaults_are_the_pages() -> None:
    assert DEFAULTS.items() <= vars(options()).items()
    assert config().image_size == 224
    assert len({*DEFAULTS, "data_url", "resize"}) == 21


@pytest.mark.parametrize(
    ("flag", "value", "key", "expected"),
    [
        ("model", "efficientnet_b3", "model.variant", "efficientnet_b3"),
        ("device_target", "CPU", "runtime.device", "CPU"),
        ("pretrained", "True", "model.weights", "efficientnet_b0"),
        ("pretrained", "some.ckpt", "model.weights", "some.ckpt"),
        ("pretrained", "false", "model.weights", None),
        ("num_parallel_workers", "2", "data.workers", 2),
        ("num_classes", "10", "model.num_classes", 10),
        ("batch_size", "32", "data.global_batch_size", 32),
        ("repeat_num", "3", "data.repeats", 3),
        ("dataset_sink_mode", "True", "data.sink", True),
        ("momentum", "0.8", "optim.momentum", 0.8),
        ("epoch_size", "90", "train.epochs", 90),
        ("keep_checkpoint_max", "5", "train.keep_checkpoints", 5),
        ("lr_decay_mode", "exponential_decay_lr", "schedule.name", "exponential"),
        ("decay_epoch", "100", "schedule.decay_epochs", 100),
        ("smooth_factor", "0.0", "train.label_smoothing", 0.0),
        ("max_lr", "0.2", "optim.base_lr", 0.8),
        ("min_lr", "0.001", "schedule.min_lr", 0.001),
        ("resize", "128", "data.image_size", 128),
    ],
)
def test_a_parameter_changes_its_setting(flag: str, value: str, key: str, expected: object) -> None:
    section, leaf = key.split(".")
    found = getattr(getattr(config(f"--{flag}", value), section), leaf)
    assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_milestone_and_learning_rates() -> None:
    pieces = config(
        *("--lr_decay_mode", "piecewise_constant_lr"),
        *("--milestone", "[10,20]", "--learning_rates", "0.1,0.01"),
    )
    assert (pieces.schedule.milestones, pieces.schedule.rates) == ((10, 20), (0.1, 0.01))
    with pytest.raises(ConfigError, match=r"milestones has 1 entries and schedule\.rates 2"):
        config(
            *("--lr_decay_mode", "piecewise_constant_lr"),
            *("--milestone", "10", "--learning_rates", "0.1,0.01"),
        )


@pytest.mark.parametrize("world_size", [1, 8])
def test_max_lr_is_the_first_rate_whatever_the_batch(world_size: int) -> None:
    """The page's first line says lr:0.10000 with 8 devices, its 254th epoch 0.00006 with min_lr 0."""
    found = config("--min_lr", "0.0", world_size=world_size)
    assert found.data.global_batch_size == 64 * world_size
    rates = lr_schedule(found.schedule, found.peak_lr, steps_per_epoch=2, total_steps=600)
    assert rates[0] == pytest.approx(0.1)
    assert rates[1] == rates[0]
    assert rates[-1] == pytest.approx(2.74e-6, rel=1e-2)


def test_smoothing_is_mindvisions() -> None:
    """1 - s for the true class, s / (K - 1) for each other."""
    s = config("--num_classes", "5", "--smooth_factor", "0.1").train.label_smoothing
    assert 1 - s + s / 5 == pytest.approx(0.9)
    assert s / 5 == pytest.approx(0.1 / 4)


@pytest.mark.parametrize("flag", ["run_distribute", "dataset_sink_mode"])
def test_booleans_are_booleans(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text, value in (("True", True), ("false", False), ("1", True), ("0", False)):
        assert getattr(options(f"--{flag}", text), flag) is value
    with pytest.raises(SystemExit):
        options(f"--{flag}", "maybe")
    assert "must be true, false, 1 or 0; got 'maybe'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--dataset_sink_mode", "True", "--device_target", "CPU"],
            "data.sink=true needs a queue on the device",
        ),
        (["--lr_decay_mode", "cosin_decay_lr"], "did you mean 'cosine_decay_lr'?"),
        (["--batch_size", "0"], "batch_size=0 must be at least 1"),
        (["--warmup_epochs", "300"], "warmup_epochs=300 does not end before the run does"),
        (["--model", "efficientnet_b9"], "did you mean 'efficientnet_b"),
    ],
)
def test_wrong_values_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(*arguments)
    assert message in str(caught.value)


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--epochsize", "3")
    assert "--epochsize" in capsys.readouterr().err


def test_who_started_the_process() -> None:
    assert Launch.of({}) == Launch("")
    msrun = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "8", "MS_NODE_ID": "3"}
    found = Launch.of(msrun)
    assert (found.name, found.rank, found.world_size, found.scheduler) == ("msrun", 3, 8, False)
    assert Launch.of({**msrun, "MS_ROLE": "MS_SCHED"}).scheduler
    mpi = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "PMIX_NAMESPACE": "7"}
    assert Launch.of(mpi) == Launch("mpirun", 2, 4, nonce="7")


def test_who_leads_who_is_alone_and_who_has_nothing_to_do() -> None:
    def of(*places: object) -> tuple[bool, bool, bool]:
        launch = Launch("msrun", *places)  # type: ignore[arg-type]
        return launch.leads, launch.alone, launch.idle

    assert of(0, 1) == (True, True, False)
    assert of(0, 1, True) == (False, True, True)
    assert of(0, 2, True) == (False, False, False)  # it brings the ranks together
    assert of(1, 2) == (False, False, False)


def test_children_of_a_rank_are_none() -> None:
    environ = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "8", "MS_NODE_ID": "3", "PATH": "/bin"}
    forget_launch(environ)
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("command", [train, evaluate])
def test_several_processes_need_run_distribute(command: Callable[..., int]) -> None:
    given = options("--run_distribute", "False", "--pretrained", "w.ckpt")
    with pytest.raises(ConfigError, match="run_distribute=False, but msrun started 8 processes"):
        command(given, Launch("msrun", 0, 8))


def test_the_line_of_a_step() -> None:
    row = {
        "kind": "train",
        "epoch": 1,
        "step": 1,
        "loss": 6.931,
        "loss_mean": 6.931,
        "ms_per_step": 26531.085,
        "lr": 0.1,
    }
    event = Event("train", "x", 1, 300 * 2502, row)
    assert log_line(event, epochs=300) == (
        "Epoch:[  0/300], step:[    1/ 2502], loss:[6.931/6.931], time:26531.085, lr:0.10000."
    )
    assert log_line(Event("train", "x"), epochs=300) is None


@pytest.mark.parametrize("number", range(8))
def test_every_variant_has_its_imagenet_recipe(number: int) -> None:
    name = f"efficientnet_b{number}_imagenet2012"
    assert name in recipe_names()
    assert load_config(name).model.variant == f"efficientnet_b{number}"
