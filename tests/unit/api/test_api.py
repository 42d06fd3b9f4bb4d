"""What people and tasks call, with the child process left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effnet_core import api
from effnet_core.api import preparation
from effnet_core.config.load import write_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import CheckpointError, ConfigError, DataError, OutputExists
from effnet_core.events import Event
from effnet_core.jobs import launch
from effnet_core.jobs.job import RESULT_NAME, EvaluateJob, Job, StageJob, TrainJob, write_job_file
from effnet_core.model_store.publication import publish_model
from effnet_core.results import EvalResult, ShardResult, TrainResult
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.system.files import write_json
from effnet_core.system.locks import sole_user
from effnet_core.weights.checkpoint import MODEL_NAME, open_checkpoint
from effnet_core.weights.importing import import_weights
from tests.support.images import source_with_splits
from tests.support.tiny import tiny_config
from tests.support.weights import make_checkpoint
from tests.unit.model_store.test_publication import make_run
from tests.unit.weights.test_importing import foreign, write

EVALUATION = EvalResult(
    seen=10, correct1=7, correct5=9, loss=0.5, class_names=["a", "b", "c", "d", "e"]
)
RESULT = TrainResult(
    checkpoint="x",
    sha256="y",
    epochs=2,
    steps=6,
    resumed_from_step=0,
    images_per_s=1.0,
    evaluation=EVALUATION,
)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, RunConfig, Path]]:
    """Jobs that would have been run; each leaves the files of a finished training run."""
    seen: list[tuple[Job, RunConfig, Path]] = []
    really_run_job = launch.run_job

    def run_job(job: Job, config: RunConfig, run_dir: Path) -> dict[str, Any]:
        if isinstance(job, StageJob):
            return really_run_job(job, config, run_dir)
        seen.append((job, config, run_dir))
        write_config(config, run_dir)
        write_job_file(job, run_dir)
        write_json(run_dir / RESULT_NAME, RESULT.to_dict())
        (run_dir / MODEL_NAME).write_bytes(b"")
        return RESULT.to_dict()

    monkeypatch.setattr(launch, "run_job", run_job)
    return seen


Jobs = list[tuple[Job, RunConfig, Path]]


def test_results_round_trip() -> None:
    assert TrainResult.from_dict(RESULT.to_dict()) == RESULT
    assert EvalResult.from_dict(EVALUATION.to_dict()) == EVALUATION
    shard = ShardResult("p", 0, 2, 1, [{"path": "a", "reason": "b"}], {"cat": 1}, 0.5)
    assert ShardResult.from_dict(shard.to_dict()) == shard


def test_ratios() -> None:
    assert EVALUATION.top1 == 0.7
    assert EVALUATION.top5 == 0.9
    assert EVALUATION.to_dict()["top1"] == 0.7
    few = replace(EVALUATION, class_names=["a", "b", "c", "d"])
    assert few.top5 is None


def test_a_finished_run_is_not_repeated(
    jobs: Jobs, data_dir: Path, tmp_path: Path, events: list[Event]
) -> None:
    assert api.train(tiny_config(), data_dir, tmp_path / "run") == RESULT
    assert api.train(tiny_config(), data_dir, tmp_path / "run") == RESULT
    assert len(jobs) == 1
    assert events[-1].message.endswith("is finished already; its result is used")


def test_without_weights_there_is_no_probe(
    jobs: Jobs, data_dir: Path, tmp_path: Path, events: list[Event]
) -> None:
    for _ in range(2):  # resumed as well
        assert api.train(tiny_config("train.probe=first"), data_dir, tmp_path / "run") == RESULT
        (tmp_path / "run" / RESULT_NAME).unlink()
    assert [config.train.probe for _, config, _ in jobs] == ["none", "none"]
    assert "no probe, training starts from random weights" in " ".join(e.message for e in events)
    with pytest.raises(ConfigError, match="only fits a classifier on features of weights"):
        api.train(tiny_config("train.probe=only"), data_dir, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_run_that_has_not_ended_is_left_alone(jobs: Jobs, data_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with (
        sole_user(run_dir, what="run folder"),
        pytest.raises(OutputExists, match="is in use by"),
    ):
        api.train(tiny_config(), data_dir, run_dir)
    assert not jobs
    assert not run_dir.exists()


def test_an_unfinished_run_goes_on(jobs: Jobs, data_dir: Path, tmp_path: Path) -> None:
    api.train(tiny_config(), data_dir, tmp_path / "run")
    (tmp_path / "run" / RESULT_NAME).unlink()
    api.train(tiny_config(), data_dir, tmp_path / "run")
    assert len(jobs) == 2


def test_settings_are_written_once_and_read_only_to_compare(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for module, name in ((launch, "write_config"), (preparation, "read_config")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, f=real: (calls.append(n), f(*a))[1])
    monkeypatch.setattr(launch, "_run_ranks", lambda *_: RESULT.to_dict())
    for wanted in (["write_config"], ["read_config", "write_config"]):
        calls.clear()
        assert api.train(tiny_config(), data_dir, tmp_path / "run") == RESULT
        assert calls == wanted


def test_another_run_in_the_folder_is_refused_by_what_differs(
    jobs: Jobs, data_dir: Path, tmp_path: Path
) -> None:
    api.train(tiny_config(), data_dir, tmp_path / "run")
    other = tiny_config("train.seed=9", "optim.base_lr=0.1", "runtime.world_size=2")
    with pytest.raises(OutputExists) as caught:
        api.train(other, data_dir, tmp_path / "run")
    assert "(differs in optim.base_lr, train.seed, runtime.world_size)" in str(caught.value)


def test_what_does_not_change_the_run_may_change(
    jobs: Jobs, data_dir: Path, tmp_path: Path
) -> None:
    api.train(tiny_config(), data_dir, tmp_path / "run")
    other = tiny_config("runtime.timeout_s=5", "storage.name=other", "infer.top_k=1")
    assert api.train(other, data_dir, tmp_path / "run") == RESULT


def test_a_foreign_folder_is_refused(jobs: Jobs, data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(OutputExists, match="is not empty and holds no run"):
        api.train(tiny_config(), data_dir, tmp_path)
    assert jobs == []


def test_paths_in_settings_are_made_absolute_because_children_work_elsewhere(
    jobs: Jobs, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "a" / "tf_efficientnet.ckpt"
    source.parent.mkdir()
    arrays = foreign("timm-tf", "efficientnet_tiny", num_classes=3)
    own = import_weights(write(source, arrays), tmp_path / "a" / "model.ckpt").checkpoint
    config = tiny_config(
        "model.weights=a/model.ckpt", "train.resume_from=b/c.ckpt", "data.std=[1,1,1]"
    )
    api.train(config, data_dir, Path("run"))
    job, given, _ = jobs[0]
    assert given.model.weights == str(own)
    # What was left open follows the weights; what was said stays.
    assert (given.model.padding, given.model.bn_eps) == ("same", 1e-3)
    assert given.data.mean == (0.485, 0.456, 0.406)
    assert given.data.std == (1, 1, 1)
    assert given.train.resume_from == tmp_path / "b/c.ckpt"
    assert isinstance(job, TrainJob) and job.data_dir == data_dir
    assert api.train(config, data_dir, Path("run")) == RESULT


def test_a_run_that_began_from_production_resumes_as_it_began(
    jobs: Jobs, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    given = "model.weights=production", "model.variant=efficientnet_b0"
    config = tiny_config(*given, f"storage.root={tmp_path / 'store'}")

    def put_in_production(version: str, correct: int) -> None:
        made = make_run(tmp_path / version, version, correct=correct)
        publish_model(
            tmp_path / version,
            evaluation=made,
            storage=config.storage,
            gate=config.evaluate,
            version=version,
        )

    def begin(run_dir: Path) -> str:
        (run_dir / RESULT_NAME).unlink(missing_ok=True)
        api.train(config, data_dir, run_dir)
        return str(jobs[-1][1].model.weights)

    put_in_production("v1", 70)
    assert "/v1-" in begin(tmp_path / "first")
    put_in_production("v2", 80)
    assert "/v1-" in begin(tmp_path / "first")
    assert "/v2-" in begin(tmp_path / "second")


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("data.global_batch_size=32", DataError, "data.global_batch_size=32 is more than the 24"),
        (
            "runtime.world_size=48",
            ConfigError,
            "runtime.world_size=48 is more than the 24 training",
        ),
    ],
)
def test_settings_that_make_no_step_are_refused_before_a_process_is_started(
    jobs: Jobs, data_dir: Path, tmp_path: Path, override: str, kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        api.train(tiny_config("data.global_batch_size=48", override), data_dir, tmp_path / "run")
    assert jobs == []
    assert not (tmp_path / "run").exists()


def test_pictures_that_are_not_there(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        api.train(tiny_config(), tmp_path / "photos", tmp_path / "run")
    assert jobs == []


@pytest.mark.costly
def test_pictures_are_staged_once_beside_the_runs(jobs: Jobs, tmp_path: Path) -> None:
    source_with_splits(tmp_path / "photos", train=8, val=2, classes=("cat", "dog"))
    api.train(tiny_config(), tmp_path / "photos", tmp_path / "runs" / "a")
    api.train(tiny_config(), tmp_path / "photos", tmp_path / "runs" / "b")
    (staged,) = (tmp_path / "runs" / "staged").iterdir()
    assert [job.data_dir for job, _, _ in jobs] == [staged.resolve()] * 2


def test_evaluate_asks_for_the_weights_of_a_run_folder(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path, tmp_path: Path
) -> None:
    make_run(tmp_path / "run", "content")
    make_checkpoint(tmp_path / "run" / MODEL_NAME, class_names=("cat", "dog", "owl"))
    seen: list[Job] = []

    def run_job(job: Job, *_: object) -> dict[str, Any]:
        seen.append(job)
        return EVALUATION.to_dict()

    monkeypatch.setattr(launch, "run_job", run_job)
    assert api.evaluate(tmp_path / "run", data_dir) == EVALUATION
    api.evaluate(tmp_path / "run" / MODEL_NAME, data_dir, split="train")
    model = open_checkpoint(tmp_path / "run" / MODEL_NAME)
    assert seen == [
        EvaluateJob(model.path, model.sha256, data_dir, split) for split in ("val", "train")
    ]

    # A model of more classes, called otherwise: a file says which is which.
    other = make_checkpoint(tmp_path / "other.ckpt", class_names=("eel", "owl", "lynx", "wolf"))
    with pytest.raises(DataError, match=r"the model has no class 'cat' for 'cat', 'dog' of the"):
        api.evaluate(other, data_dir)
    (tmp_path / "map.csv").write_text("data,model\ncat,lynx\ndog,3\n")
    api.evaluate(other, data_dir, classes=tmp_path / "map.csv")
    found = seen[-1]
    assert isinstance(found, EvaluateJob) and found.labels == (2, 3, 1)


def test_evaluate_refuses_before_a_process_is_started(data_dir: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "run", "content")
    with pytest.raises(CheckpointError, match="does not exist"):
        api.evaluate(tmp_path / "nothing.ckpt", data_dir)
    with pytest.raises(DataError, match="no images in split 'test'"):
        api.evaluate(tmp_path / "run", data_dir, split="test")
    sixteen = tiny_config("runtime.world_size=16", "data.global_batch_size=16")
    with pytest.raises(ConfigError, match=r"runtime\.world_size=16 is more than the 12"):
        api.evaluate(tmp_path / "run", data_dir, config=sixteen)
