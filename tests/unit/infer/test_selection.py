"""The fastest engine with the same answers: what is tried, taken, turned down and remembered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.events import Event, listen
from effnet_core.export import export
from effnet_core.infer import engines, trial
from effnet_core.infer.engines import selection
from effnet_core.infer.engines.selection import AGREEMENTS, remembered, select, spread_over
from effnet_core.infer.pipeline import Outputs
from effnet_core.infer.plan import RUN_NAME
from effnet_core.jobs.job import EngineChoice, TrialJob
from effnet_core.results.engines import DIFFERENT, FINE, IMPOSSIBLE, SLOWER, Tried, pictures_needed
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.system.files import write_json
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint
from tests.support.images import draw
from tests.support.weights import make_checkpoint

ENOUGH = pictures_needed(AGREEMENTS["strict"][0])
FIRST = EngineChoice("onnxruntime", "fp32", Path("file"))
OTHER = EngineChoice("openvino", "fp16", Path("file"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(make_checkpoint(tmp_path / "model.ckpt"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        draw(seed=number).resize((32, 32)).save(folder / f"{number}.png")
    return folder


class Fake:
    """Two classes; every so many-th picture is answered otherwise, by so much."""

    def __init__(self, ms: float, every: int = 0, logit: float = 3.0) -> None:
        self.ms, self.every, self.logit, self.seen = ms, every, logit, 0
        self.workers, self.micro_batch = 1, 4

    def forward(self, pixels: np.ndarray) -> Outputs:
        if self.ms:
            time.sleep(self.ms / 1000 * len(pixels))
        logits = np.tile(np.array([0.0, 3.0], np.float32), (len(pixels), 1))
        for row in range(len(pixels)):
            self.seen += 1
            if self.every and self.seen % self.every == 0:
                logits[row, 1] = self.logit
        return Outputs(logits)


def plan_of(pictures: Path) -> Path:
    """As much of a plan as a trial reads."""
    folder = pictures.parent / "out"
    folder.mkdir(exist_ok=True)
    write_json(folder / RUN_NAME, {"input": str(pictures), "members": False})
    return folder


def tried(
    checkpoint: Checkpoint, pictures: Path, first: Fake, other: Any, *, count: int = ENOUGH
) -> Tried:
    """What a trial says of the other engine."""
    names = sorted(path.name for path in pictures.iterdir())
    share, within = AGREEMENTS["strict"]
    job = TrialJob(
        checkpoint.path,
        checkpoint.sha256,
        choices=(FIRST, OTHER),
        planned=plan_of(pictures),
        paths=tuple(names * (count // len(names) + 1))[:count],
        share=share,
        within=within,
    )

    def load(engine: str, *_: Any, **__: Any) -> Any:
        found = first if engine == "onnxruntime" else other
        if isinstance(found, Exception):
            raise found
        return found

    with (
        mock.patch.object(trial, "load_file", load),
        mock.patch.object(trial, "leave_at_once"),
        mock.patch.object(trial, "resizer_for", lambda *_: None),
    ):
        answer = trial.try_engines(job, checkpoint, RunConfig())
    assert answer["tried"][0]["times"] == 1.0
    return Tried(**answer["tried"][1])


def test_pictures_that_are_needed_to_be_sure() -> None:
    assert ENOUGH == 1497
    assert trial.highest_share(0, ENOUGH) <= 0.002 < trial.highest_share(0, ENOUGH - 1)
    assert trial.highest_share(1, ENOUGH) > 0.002
    assert trial.lowest_share(0, 10) == 0
    assert trial.lowest_share(3, 192) < 0.005 < trial.lowest_share(4, 192) + 0.002


def test_a_faster_engine_with_the_same_answers(checkpoint: Checkpoint, pictures: Path) -> None:
    found = tried(checkpoint, pictures, Fake(0.5), Fake(0))
    assert found.verdict == FINE
    assert found.pictures == ENOUGH
    assert found.differing == 0
    assert found.times > 1.5
    assert "the same answers as fp32 on 1,497 of 1,497 pictures" in found.as_taken(0.01)


def test_a_slower_engine_is_dropped_early(checkpoint: Checkpoint, pictures: Path) -> None:
    found = tried(checkpoint, pictures, Fake(0), Fake(0.5))
    assert found.verdict == SLOWER
    assert found.pictures < ENOUGH / 4
    assert "times as fast" in found.in_words()


def test_other_answers_are_found_early(checkpoint: Checkpoint, pictures: Path) -> None:
    found = tried(checkpoint, pictures, Fake(0.5), Fake(0, every=10, logit=-3.0))
    assert found.verdict == DIFFERENT
    assert found.pictures < ENOUGH / 2
    assert found.other_class == found.differing > 0
    assert f"{found.differing} of {found.pictures}" in found.in_words()


def test_a_probability_that_differs_is_another_answer(
    checkpoint: Checkpoint, pictures: Path
) -> None:
    found = tried(checkpoint, pictures, Fake(0.5), Fake(0, every=10, logit=2.5))
    assert found.verdict == DIFFERENT
    assert found.other_class == 0
    assert 0.01 < found.largest < 0.05
    fine = tried(checkpoint, pictures, Fake(0.5), Fake(0, every=10, logit=2.99))
    assert fine.verdict == FINE
    assert 0 < fine.largest < 0.01


@pytest.mark.costly
def test_a_few_other_answers_take_more_pictures_to_be_sure(
    checkpoint: Checkpoint, pictures: Path
) -> None:
    rare = {"every": ENOUGH - 1, "logit": -3.0}
    few = tried(checkpoint, pictures, Fake(0.5), Fake(0, **rare))
    assert few.verdict == "undecided"
    assert "to be sure" in few.in_words()
    more = tried(checkpoint, pictures, Fake(0.5), Fake(0, **rare), count=2 * ENOUGH)
    assert more.verdict == FINE
    assert 0 < more.differing < 3


def test_an_engine_that_does_not_start(checkpoint: Checkpoint, pictures: Path) -> None:
    found = tried(checkpoint, pictures, Fake(0.01), ConfigError("no such processor"), count=16)
    assert found.verdict == IMPOSSIBLE
    assert found.in_words() == "openvino fp16 (no such processor)"


@pytest.fixture
def run_of(checkpoint: Checkpoint) -> Iterator[Any]:
    """Selects for a run of so many images; the trial is answered by a list of verdicts."""
    times = {"fp32": 0.9, "fp16": 1.5, "bf16": 1.6}
    jobs: list[TrialJob] = []

    def answered(verdicts: dict[str, str]) -> Any:
        def run_job(job: TrialJob, *_: Any) -> dict[str, Any]:
            jobs.append(job)
            found = [
                Tried(one.engine, one.precision, verdicts.get(str(one), SLOWER), 1497)
                for one in job.choices
            ]
            for one in found:
                one.times = times[one.precision]
            found[0].verdict, found[0].times = FINE, 1.0
            return {"tried": [vars(one) for one in found]}

        return run_job

    def run(images: int, *overrides: str, **verdicts: str) -> tuple[str, list[str], int]:
        before, said = len(jobs), list[str]()
        answers = {name.replace("_", " "): verdict for name, verdict in verdicts.items()}
        config = load_config(None, overrides)

        def hear(event: Event) -> None:
            said.append(event.message)

        with (
            mock.patch.object(export, "require_agreement"),
            mock.patch.object(selection, "run_job", answered(answers)),
            listen(hear),
        ):
            chosen = select(
                checkpoint,
                config,
                "in",
                images,
                lambda n: [f"{i}.jpg" for i in range(min(n, images))],
            )
        again = remembered(checkpoint, config)
        assert again is not None
        assert str(again.choice) == str(chosen.choice)
        return str(chosen.choice), said, len(jobs) - before

    run.jobs = jobs  # type: ignore[attr-defined]
    yield run


def test_few_pictures_are_labelled_in_fp32_without_a_trial(run_of: Any) -> None:
    assert run_of(ENOUGH - 1)[::2] == ("onnxruntime fp32", 0)


def test_the_fastest_that_agrees_is_taken_and_remembered(run_of: Any) -> None:
    answers = {"openvino_fp16": FINE, "openvino_bf16": DIFFERENT}
    chosen, said, trials = run_of(5000, **answers)
    assert (chosen, trials) == ("openvino fp16", 1)
    assert [str(one) for one in run_of.jobs[0].choices] == [
        *("onnxruntime fp32", "openvino fp32", "openvino fp16", "openvino bf16"),
    ]
    assert len(run_of.jobs[0].paths) == 5000
    assert said[-1].startswith("engine: openvino fp16, ")
    assert "turned down: onnxruntime fp32" in said[-1]
    assert "openvino bf16 (0 images/s, but 0 of 1,497 pictures have other answers" in said[-1]
    assert run_of(10)[::2] == ("openvino fp16", 0)  # known by now
    assert run_of(5000, "infer.agreement=close", **answers)[2] == 1


def test_precision_fp32_asks_for_exactness(run_of: Any) -> None:
    chosen, _, trials = run_of(5000, "infer.precision=fp32", openvino_fp16=FINE)
    assert (chosen, trials) == ("onnxruntime fp32", 1)
    assert {one.precision for one in run_of.jobs[0].choices} == {"fp32"}


def test_what_is_asked_for_is_not_tried(run_of: Any) -> None:
    assert run_of(5000, "infer.precision=bf16")[::2] == ("openvino bf16", 0)
    asked = ("infer.engine=onnxruntime", "infer.precision=fp32")
    assert run_of(5000, *asked)[::2] == ("onnxruntime fp32", 0)
    assert run_of(5000, "infer.engine=onnxruntime")[::2] == ("onnxruntime fp32", 0)


def test_where_openvino_is_missing(run_of: Any) -> None:
    with mock.patch.object(engines, "missing", lambda name: ["x"] * (name == "openvino")):
        assert run_of(5000)[::2] == ("onnxruntime fp32", 0)


def test_a_damaged_note_is_made_again(run_of: Any, tmp_path: Path) -> None:
    run_of(5000, openvino_fp16=FINE)
    (note,) = (tmp_path / "cache").rglob(selection.NOTES_NAME)
    note.write_text("{")
    assert run_of(5000, openvino_fp16=FINE)[::2] == ("openvino fp16", 1)


def test_int8_without_an_int8_network_is_refused(checkpoint: Checkpoint) -> None:
    config = load_config(None, ["infer.precision=int8"])
    with pytest.raises(ConfigError, match="effnet quantize"):
        select(checkpoint, config, Path("out"), 5000, lambda n: [])


def test_samples_come_from_all_over_a_run() -> None:
    places = spread_over(100, 10_000)
    assert sorted(places) == list(range(0, 10_000, 100))
    assert places != sorted(places)
    assert sorted(spread_over(10, 4)) == [0, 1, 2, 3]
