"""A run that was killed at any step and resumed ends like one that was not, to the last bit."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from effnet_core import api
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import Interrupted, WorkerLost
from effnet_core.events import Event, listen
from effnet_core.jobs.job import METRICS_NAME, RESERVE_NAME
from effnet_core.results import TrainResult
from effnet_core.system.files import read_jsonl
from tests.jobs.test_control import processes_of
from tests.support.images import source_with_splits
from tests.support.tiny import tiny_config

pytestmark = pytest.mark.mindspore

Run = tuple[Path, TrainResult]

EPOCHS, STEPS = 3, 13
"""Of every run here; more steps than the kernels need to settle on their pieces, and no round number."""

SETTINGS = (
    "runtime.exact_resume=true",
    "runtime.world_size=2",  # a core each: with several, MindSpore itself is not always repeatable
    f"train.epochs={EPOCHS}",
    "data.image_size=128",  # or all steps are done before the signal arrives
    "train.checkpoint_every_steps=4",
    "model.drop_path_rate=0.5",
    "optim.base_lr=0.05",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """104 training images of 2 classes: 13 steps an epoch."""
    folder = tmp_path_factory.mktemp("exact")
    source_with_splits(folder / "source", train=52, val=4, classes=("cat", "dog"))
    stage_dataset(folder / "source", folder / "data")
    return folder / "data"


def course(run_dir: Path) -> list[dict[str, Any]]:
    """All that metrics.jsonl tells of the steps, without what a clock says."""
    return [
        {
            key: value
            for key, value in row.items()
            if key not in ("time", "images_per_s", "ms_per_step")
        }
        for row in read_jsonl(run_dir / METRICS_NAME)
        if row["kind"] == "train"
    ]


SLOW_S = 6
SLOW_ANSWER = f"""
import os, pathlib, time
if os.environ.get("MS_NODE_ID") == "0" and os.environ.get("MS_ROLE") == "MS_WORKER":
    rename = pathlib.Path.rename
    def slow(self, target):
        if self.name == "{Path(RESERVE_NAME).name}":
            time.sleep({SLOW_S})
            self.with_name("slept").touch()
        return rename(self, target)
    pathlib.Path.rename = slow
"""
"""As on a slow share: rank 0 takes its time to write its answer, while rank 1 is done. ``rank 1 died
without an answer``, it once said of a finished run."""


@pytest.fixture(scope="module")
def straight(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run_dir = tmp_path_factory.mktemp("straight")
    slow = tmp_path_factory.mktemp("slow")
    (slow / "sitecustomize.py").write_text(SLOW_ANSWER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(slow), prepend=os.pathsep)
        return run_dir, api.train(tiny_config(*SETTINGS), images, run_dir)


def cut(
    images: Path,
    run_dir: Path,
    *,
    rank: int,
    step: int,
    number: int,
    settings: tuple[str, ...] = SETTINGS,
) -> Exception:
    """Train until ``step`` is logged, then send a signal to one rank; how the job ended.

    A kill ends it within seconds and is blamed on the right rank, and no process is left.
    """
    sent: list[float] = []

    def send_once(event: Event) -> None:
        if not sent and event.metrics.get("step", 0) >= step:
            os.kill(int((run_dir / "logs" / f"rank_{rank}.pid").read_text()), number)
            sent.append(time.monotonic())

    with listen(send_once), pytest.raises((WorkerLost, Interrupted)) as caught:
        api.train(tiny_config(*settings), images, run_dir)
    if number == signal.SIGKILL:
        assert time.monotonic() - sent[0] < 20
        assert re.search(rf"rank (0 or )?{rank} (or 1 )?died", str(caught.value))
    assert processes_of(run_dir) == []
    return caught.value


def require_same(run_dir: Path, result: TrainResult, straight: Run) -> None:
    assert course(run_dir) == course(straight[0])
    assert [row["step"] for row in course(run_dir)] == list(range(1, EPOCHS * STEPS + 1))
    assert result.weights_digest == straight[1].weights_digest
    assert result.evaluation.confusion == straight[1].evaluation.confusion


# --- the straight run ----------------------------------------------------------------------------


def rank_lines(run_dir: Path, rank: int) -> list[str]:
    log = (run_dir / "logs" / f"worker_{rank}.log").read_text(errors="replace")
    return [line for line in log.splitlines() if line.startswith(f"rank {rank} of 2")]


def test_ranks_see_different_shards_and_end_with_the_same_weights(straight: Run) -> None:
    run_dir, result = straight
    logs = [rank_lines(run_dir, rank) for rank in (0, 1)]
    shards = [re.findall(r"epoch (\d+) shard (\w+), (\d+) images", "\n".join(log)) for log in logs]
    assert [count for _, _, count in shards[0]] == ["52"] * EPOCHS
    assert len({digest for log in shards for _, digest, _ in log}) == 2 * EPOCHS
    digests = [re.search(r"final weights sha256 (\w{64})", "\n".join(log)) for log in logs]
    assert digests[0] is not None
    assert digests[1] is not None
    assert digests[0].group(1) == digests[1].group(1) == result.weights_digest


def test_two_ranks_learn_and_neither_is_missed_while_the_first_writes(straight: Run) -> None:
    run_dir, result = straight
    assert (run_dir / "logs/slept").exists()
    assert result.world_size == 2
    assert result.steps == EPOCHS * STEPS
    assert result.evaluation.seen == 8


def test_no_newcomer_would_take_the_log_for_a_failure(straight: Run) -> None:
    run_dir, _ = straight
    for log in sorted((run_dir / "logs").glob("*.log")):
        text = log.read_text(errors="replace")
        for bad in ("Exception ignored", "Traceback", "[ERROR]", "[WARNING]"):
            assert bad not in text, f"{log}: {bad}"


# --- runs that are cut --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "rank"),
    [
        (0, 0),
        *(
            pytest.param(seed, rank, marks=pytest.mark.slow)
            for seed in (0, 1, 2)
            for rank in (0, 1)
            if (seed, rank) != (0, 0)
        ),
    ],
)
def test_after_kill_9_of_a_rank_at_a_random_step(
    seed: int, rank: int, images: Path, tmp_path: Path, straight: Run
) -> None:
    """Within the first epochs, while kernels still settle, and after that."""
    run_dir = tmp_path / "run"
    step = random.Random(seed).randrange(5, EPOCHS * STEPS - 4)
    error = cut(images, run_dir, rank=rank, step=step, number=signal.SIGKILL)
    assert isinstance(error, WorkerLost)
    result = api.train(tiny_config(*SETTINGS), images, run_dir)
    assert 4 <= result.resumed_from_step < EPOCHS * STEPS
    require_same(run_dir, result, straight)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, STEPS])
def test_after_a_stop_that_saves_within_an_epoch_or_at_its_end(
    step: int, images: Path, tmp_path: Path, straight: Run
) -> None:
    run_dir = tmp_path / "run"
    error = cut(images, run_dir, rank=0, step=step, number=signal.SIGTERM)
    assert isinstance(error, Interrupted)
    assert "and saved; the same command continues from there" in str(error)
    result = api.train(tiny_config(*SETTINGS), images, run_dir)
    assert result.resumed_from_step >= step
    require_same(run_dir, result, straight)
    evaluated = [
        row["epoch"] for row in read_jsonl(run_dir / METRICS_NAME) if row["kind"] == "eval"
    ]
    assert evaluated == [1, 2, 3]


@pytest.mark.slow
def test_records_give_the_same_course_as_files_and_resume_exactly(
    images: Path, tmp_path: Path, straight: Run
) -> None:
    """The files are gone when the run continues, so that it is records that are read."""
    data, run_dir = Path(shutil.copytree(images, tmp_path / "data")), tmp_path / "run"
    settings = (*SETTINGS, "data.format=mindrecord")
    cut(data, run_dir, rank=1, step=7, number=signal.SIGKILL, settings=settings)
    shutil.rmtree(data / "images")
    result = api.train(tiny_config(*settings), data, run_dir)
    assert result.resumed_from_step >= 4
    require_same(run_dir, result, straight)


EVERYTHING = (
    *("optim.name=adamw", "optim.base_lr=0.02", "optim.clip_norm=1", "optim.layer_decay=0.8"),
    *("optim.accumulate_steps=2", "train.ema_decay=0.9", "train.class_weights=balanced"),
    *("data.policy=randaugment", "data.erase_rate=0.5", "data.mixup_alpha=0.4"),
    *("data.cutmix_alpha=1.0", "data.progressive_sizes=[24,32]", "data.repeats=2"),
    *("schedule.name=polynomial", "train.final_model=best", "train.checkpoint_every_steps=5"),
)


@pytest.mark.slow
def test_everything_at_once_resumes_exactly_too(images: Path, tmp_path: Path) -> None:
    """Both sizes, moving averages, mixed batches and gradients in parts; killed twice."""
    settings = (*SETTINGS, *EVERYTHING)
    straight = tmp_path / "straight"
    expected = api.train(tiny_config(*settings), images, straight)
    run_dir = tmp_path / "run"
    for step, rank in ((12, 1), (58, 0)):
        cut(images, run_dir, rank=rank, step=step, number=signal.SIGKILL, settings=settings)
    result = api.train(tiny_config(*settings), images, run_dir)
    assert course(run_dir) == course(straight)
    assert len(course(run_dir)) == EPOCHS * 2 * STEPS
    assert result.weights_digest == expected.weights_digest


@pytest.mark.slow
def test_a_budget_in_minutes_ends_by_the_clock_and_the_rate_falls_with_it(
    images: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = ("train.budget=0.15 minutes", "schedule.warmup_epochs=0", "train.log_every_steps=1")
    result = api.train(tiny_config(*settings), images, run_dir)
    assert result.seconds >= 9
    rates = [row["lr"] for row in course(run_dir)]
    assert result.steps == len(rates)
    assert max(b - a for a, b in pairwise(rates)) < 1e-9
    assert rates[-1] < 0.2 * max(rates)
    assert result.evaluation.seen == 8
