"""Every setting does something: those whose effect shows only when a job runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import ConfigError, DataError
from effnet_core.events import Event, listen
from effnet_core.jobs.job import CHECKPOINTS_NAME, METRICS_NAME
from effnet_core.model_store.publication import publish_model
from effnet_core.model_store.versions import cached_model
from effnet_core.system.files import read_jsonl
from effnet_core.weights.checkpoint import MODEL_NAME, open_checkpoint
from tests.support import every_setting
from tests.support.images import source_with_splits
from tests.support.tiny import small_config, tiny_config
from tests.support.weights import make_checkpoint
from tests.unit.model_store.test_publication import make_run

EPOCHS, STEPS = 6, 2
"""Of every run here: twelve steps in all."""

CHANGED = {
    "train.log_every_steps": 2,
    "train.evaluate_every_epochs": 4,
    "train.checkpoint_every_epochs": 2,
    "train.keep_checkpoints": 2,
}
PROVED = (
    *CHANGED,
    "data.format",
    "train.checkpoint_every_steps",
    "train.checkpoint_every_minutes",
    "runtime.device",
    "storage.onnx",
    "auto.enabled",
    "train.probe",
)


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training and 2 validation images of 2 classes, staged."""
    folder = tmp_path_factory.mktemp("few")
    source_with_splits(folder / "source", train=4, val=1, classes=("cat", "dog"))
    stage_dataset(folder / "source", folder / "data")
    return folder / "data"


def traces(few_images: Path, run_dir: Path, *overrides: str) -> dict[str, Any]:
    """What a run leaves: steps logged, epochs evaluated, checkpoints kept."""
    config = small_config(f"train.epochs={EPOCHS}", "data.global_batch_size=4", *overrides)
    api.train(config, few_images, run_dir)
    rows = read_jsonl(run_dir / METRICS_NAME)
    return {
        "logged": [row["step"] for row in rows if row["kind"] == "train"],
        "evaluated": [row["epoch"] for row in rows if row["kind"] == "eval"],
        "kept": sorted(
            int(path.stem.removeprefix("step-"))
            for path in (run_dir / CHECKPOINTS_NAME).glob("step-*.ckpt")
        ),
    }


def test_every_setting_of_this_layer_has_a_proof() -> None:
    assert sorted(PROVED) == sorted(every_setting.JOBS)


def test_how_often_a_run_logs_evaluates_and_saves(few_images: Path, tmp_path: Path) -> None:
    """Two runs that differ in four settings; each has a trace that no other one has."""
    every_step = traces(few_images, tmp_path / "a", "train.log_every_steps=1")
    assert every_step == {
        "logged": list(range(1, 13)),
        "evaluated": [1, 2, 3, 4, 5, 6],
        "kept": [8, 10, 12],  # one an epoch, the three newest
    }
    assert not (few_images / "records").exists()
    overrides = [f"{key}={value}" for key, value in CHANGED.items()]
    seldom = traces(few_images, tmp_path / "b", *overrides)
    assert seldom == {
        "logged": [1, 2, 4, 6, 8, 10, 12],  # the first of a process shows that it moves
        "evaluated": [4, 6],  # the last epoch is always evaluated
        "kept": [8, 12],  # every second epoch's, the two newest
    }


def test_checkpoints_by_steps_and_by_minutes_and_what_is_done_however_seldom_it_is_asked_for(
    few_images: Path, tmp_path: Path
) -> None:
    seldom = "train.checkpoint_every_epochs=1000"
    assert traces(
        few_images,
        tmp_path / "steps",
        seldom,
        "train.checkpoint_every_steps=5",
        "train.log_every_steps=1000",
        "train.evaluate_every_epochs=1000",
    ) == {
        "logged": [1, 2, 4, 6, 8, 10, 12],  # the end of an epoch always
        "evaluated": [6],
        "kept": [5, 10, 12],
    }
    # Longer than a step and shorter than the run: some, but how many depends on the machine.
    minutes = traces(
        few_images, tmp_path / "minutes", seldom, "train.checkpoint_every_minutes=1e-6"
    )
    assert len(minutes["kept"]) == 3
    assert minutes["kept"] != [12]


def test_records_are_made_where_they_are_wanted_and_only_they_are_read(
    few_images: Path, tmp_path: Path
) -> None:
    """The files are gone as soon as there are records of both splits, before the training starts."""
    data = Path(shutil.copytree(few_images, tmp_path / "data"))

    def made() -> list[str]:
        return sorted(p.name for p in (data / "records").iterdir() if p.is_dir())

    def take_away(event: Event) -> None:
        if event.topic == "records" and made() == ["train", "val"]:
            shutil.rmtree(data / "images", ignore_errors=True)

    with listen(take_away):
        traces(data, tmp_path / "a", "data.format=mindrecord")
    assert made() == ["train", "val"]
    assert not (data / "images").exists()
    result = api.evaluate(tmp_path / "a", data, config=tiny_config("data.format=mindrecord"))
    assert result.seen == 2
    with pytest.raises(DataError, match="cannot be read"):
        traces(data, tmp_path / "b")


def test_a_device_that_is_not_there_is_refused_by_name(few_images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        traces(few_images, tmp_path / "run", "runtime.device=Ascend")
    told = str(caught.value)
    assert told.startswith("runtime.device=Ascend is not available on this machine (")
    assert "Ascend" in told.partition("(")[2]
    assert told.endswith("); use CPU, or install the driver and MindSpore's libraries for it")


def test_a_slow_first_use_of_a_gpu_is_told_before_it_begins(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 9.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ConfigError, match="device=GPU is not available"):
        traces(few_images, tmp_path / "run", "runtime.device=GPU")
    assert "newer than MindSpore's kernels" in (tmp_path / "run" / "events.jsonl").read_text()


def test_a_model_is_published_as_onnx_too(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    evaluation = make_run(run_dir, "x")
    checkpoint = make_checkpoint(run_dir / MODEL_NAME, variant="efficientnet_tiny")
    evaluation = replace(evaluation, checkpoint_sha256=open_checkpoint(checkpoint).sha256)
    found = []
    for onnx in ("false", "true"):
        config = tiny_config(f"storage.onnx={onnx}", f"storage.root={tmp_path / onnx}")
        publish_model(
            run_dir,
            evaluation=evaluation,
            storage=config.storage,
            gate=config.evaluate,
            version="v1",
        )
        path = cached_model(config.storage, "v1").path.with_name("model.onnx")
        found.append(path.exists() and onnxruntime.InferenceSession(path).get_outputs()[0].name)
    assert found == [False, "logits"]


def test_a_classifier_comes_first_where_it_is_asked_for_or_decided(
    few_images: Path, tmp_path: Path
) -> None:
    weights = make_checkpoint(tmp_path / "x.ckpt", variant="efficientnet_tiny")
    given = f"model.weights={weights}"
    asked = tiny_config(given, "train.probe=only")
    decided = load_config("auto", [given, "auto.quality=fast"])
    for name, config in {"asked": asked, "decided": decided}.items():
        result = api.train(config, few_images, tmp_path / name)
        assert (result.steps, result.probe_top1) == (0, result.evaluation.top1)
        made = open_checkpoint(tmp_path / name / MODEL_NAME)
        assert made.sha256 == result.sha256
        assert made.sidecar.class_names == ("cat", "dog")
    assert made.sidecar.variant == "efficientnet_tiny"
