"""Nothing that grows with classes, shards or images travels through Prefect.

Its server refuses parameters of more than 512 KB, which the confusions of 1,000 classes or the plan of
3,000 shards are. Training, evaluation and labelling are played here; everything between them is real.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    FlowRunFilter,
    FlowRunFilterStartTime,
    LogFilter,
    LogFilterTimestamp,
)

from effnet_core import api
from effnet_core.config.load import read_config, write_config
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.infer import output
from effnet_core.infer.plan import InferencePlan
from effnet_core.jobs.job import JOB_NAME, RESULT_NAME, Shard
from effnet_core.model_store.versions import resolve_version
from effnet_core.reports.evaluation import EvaluationReport
from effnet_core.results import EvalResult, ShardCounts, ShardResult, TrainResult
from effnet_core.results.confusion import ConfusionCounter
from effnet_core.system.files import read_json, write_json
from effnet_core.weights.checkpoint import Sidecar
from flows.pipeline import pipeline_flow
from tasks import evaluate as evaluate_task
from tests.support.images import class_folders, draw, encode
from tests.support.tiny import TINY

pytestmark = [pytest.mark.prefect]

MOST_BYTES = 32 * 1024
"""Of the parameters of a run; Prefect's limit is 16 times this."""
IMAGES = 50_000
SHARDS = 10_000


def evaluation_of(classes: int, *, checkpoint_sha256: str, data_digest: str) -> EvalResult:
    """Of so many classes that nearly every image is a pair of its own."""
    rng = np.random.default_rng(classes)
    true = rng.integers(0, classes, IMAGES)
    answer = np.where(rng.random(IMAGES) < 0.7, true, rng.integers(0, classes, IMAGES))
    counter = ConfusionCounter(classes)
    counter.add(true, answer)
    return EvalResult(
        seen=IMAGES,
        correct1=counter.total().correct,
        correct5=IMAGES,
        loss=1.0,
        confusion=counter.total(),
        class_names=names_of(classes),
        split="val",
        checkpoint_sha256=checkpoint_sha256,
        data_digest=data_digest,
    )


def names_of(classes: int) -> list[str]:
    return [f"n{index:08d} a class with a long name" for index in range(classes)]


@dataclasses.dataclass
class Played:
    """What stands in for the jobs; counts how often lists are written."""

    classes: int
    lists_written: int = 0
    shards_labelled: int = 0

    def train(self, config: RunConfig, data: Path, run_dir: Path) -> TrainResult:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_config(config, run_dir)
        (run_dir / JOB_NAME).write_text("{}")
        content = f"weights of {self.classes}".encode()
        (run_dir / "model.ckpt").write_bytes(content)
        sidecar = Sidecar(
            variant="efficientnet_tiny",
            class_names=tuple(names_of(self.classes)),
            preprocess=PreprocessSpec(32, 0.875, "bicubic", (0.5,) * 3, (0.25,) * 3),
            bn_momentum=0.99,
            bn_eps=1e-3,
            epoch=1,
            step=1,
            training_state=False,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )
        write_json(run_dir / "model.json", sidecar.to_dict())
        result = TrainResult(
            checkpoint=str(run_dir / "model.ckpt"),
            sha256=sidecar.sha256,
            epochs=1,
            steps=1,
            resumed_from_step=0,
            images_per_s=1.0,
            evaluation=self._measure(data, sidecar.sha256),
        )
        write_json(run_dir / RESULT_NAME, result.to_dict())
        return result

    def evaluate(self, weights: str, data: Path, **options: Any) -> EvalResult:
        content = Path(weights).read_bytes()
        result = self._measure(data, hashlib.sha256(content).hexdigest())
        write_json(options["work_dir"] / RESULT_NAME, result.to_dict())
        return result

    def report(self, folder: Path, _: Any) -> EvaluationReport:
        """None of an evaluation that was played: nothing answered any image."""
        return EvaluationReport(folder / "report.html", [])

    def _measure(self, data: Path, sha256: str) -> EvalResult:
        digest = open_dataset(data).digest
        return evaluation_of(self.classes, checkpoint_sha256=sha256, data_digest=digest)

    def plan(self, *arguments: Any, **options: Any) -> InferencePlan:
        """The real plan, of which all but three shards are finished already."""
        plan = plan_inference(*arguments, **options)
        for shard in plan.shards[:-3]:
            self._finish(plan, shard)
        return plan

    def label(
        self, plan: InferencePlan, shards: Sequence[Shard], *_: Any, **__: Any
    ) -> list[ShardCounts]:
        self.shards_labelled += len(shards)
        return [self._finish(plan, shard) for shard in shards]

    def _finish(self, plan: InferencePlan, shard: Shard) -> ShardCounts:
        """Leave what a labelled shard leaves, without the care for the disk that costs most of it."""
        names, path = names_of(2), f"{shard.index}.png"
        answer = {"path": path, "class_ids": [0, 1], "class_names": names, "probs": [0.9, 0.1]}
        done = ShardResult(shard.part, shard.start, shard.stop, 1, [], {names[0]: 1}, 1.0, 1.0)
        for file, value in (
            (plan.part_path(shard), answer),
            (plan.shard_path(shard), done.to_dict()),
        ):
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(value) + "\n")
        return done.counts()


plan_inference = api.plan_inference


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put a ``Played`` in the place of the jobs."""
    plain = output._write_errors

    def start(classes: int) -> Played:
        played = Played(classes)

        def write(plan: InferencePlan) -> Any:
            played.lists_written += 1
            return plain(plan)

        monkeypatch.setattr(api, "train", played.train)
        monkeypatch.setattr(api, "evaluate", played.evaluate)
        monkeypatch.setattr(api, "plan_inference", played.plan)
        monkeypatch.setattr(api, "infer_shards", played.label)
        monkeypatch.setattr(output, "_write_errors", write)
        monkeypatch.setattr(evaluate_task, "report_evaluation", played.report)
        return played

    return start


async def told_since(began: datetime) -> tuple[list[Any], list[Any], list[Any]]:
    async with get_client() as client:
        after = FlowRunFilter(start_time=FlowRunFilterStartTime(after_=began))
        flow_runs = await client.read_flow_runs(flow_run_filter=after)
        artifacts = await client.read_artifacts(artifact_filter=ArtifactFilter())
        logs = await client.read_logs(
            log_filter=LogFilter(timestamp=LogFilterTimestamp(after_=began)), limit=200
        )
        return flow_runs, [item for item in artifacts if item.created >= began], logs


@pytest.mark.parametrize(("classes", "shards"), [(1_000, 5), (21_000, SHARDS)])
def test_the_pipeline_carries_any_number_of_classes_and_shards(
    tmp_path: Path, play: Any, classes: int, shards: int
) -> None:
    played: Played = play(classes)
    source, inbox, out = tmp_path / "source", tmp_path / "inbox", tmp_path / "out"
    class_folders(source / "train", {"cat": 2, "dog": 2})
    class_folders(source / "val", {"cat": 2, "dog": 2}, seed=9)
    inbox.mkdir()
    picture = encode(draw())
    (inbox / "0.png").write_bytes(picture)
    for index in range(1, shards):
        (inbox / f"{index}.png").hardlink_to(inbox / "0.png")
    store = tmp_path / "store"
    settings = ["infer.shard_images=1", "infer.format=jsonl", f"storage.root={store}"]
    began = datetime.now(timezone.utc)
    summary = pipeline_flow(
        str(source), str(inbox), str(out), recipe="digits", overrides=[*TINY, *settings]
    )

    assert summary["promoted"] and summary["labelled"] == shards
    storage = read_config(out / "train" / "config.yaml").storage
    manifest = resolve_version(storage, "production")
    assert manifest["num_classes"] == classes
    assert manifest["metrics"]["top1"] == summary["top1"] == pytest.approx(0.7, abs=0.02)
    assert played.shards_labelled == min(3, shards)
    assert played.lists_written == 1  # of all shards, once a run

    flow_runs, artifacts, logs = asyncio.run(told_since(began))
    assert {run.name.partition("-")[0] for run in flow_runs} == {
        "pipeline",
        "stage",
        "train",
        "evaluate",
        "publish",
        "batch",
        "label",
    }
    for run in flow_runs:
        size = len(json.dumps(run.parameters, default=str))
        assert size < MOST_BYTES, f"{run.name} has {size:,} bytes of parameters"
    for artifact in artifacts:
        size = len(str(artifact.data))
        assert size < 400_000, f"{artifact.key} has {size:,} bytes"
    assert max(len(log.message) for log in logs) < MOST_BYTES
    assert (out / "report.html").stat().st_size < 4 << 20
    parts = read_json(out / "predictions" / "summary.json")["parts"]
    assert len(parts) == shards
