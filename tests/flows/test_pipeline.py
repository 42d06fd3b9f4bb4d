"""The flows on a dozen images, in Prefect's test harness, with real child processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterTimestamp,
    TaskRunFilter,
    TaskRunFilterStartTime,
)

from effnet_core.errors import DataError, FolderInUse
from effnet_core.events import Event
from effnet_core.system.files import read_json
from effnet_core.system.locks import sole_user
from flows.batch_infer import batch_infer_flow
from flows.pipeline import pipeline_flow
from flows.stage import stage_flow
from tests.support.images import class_folders, draw, encode
from tests.support.tiny import ONE_BLOCK, SMALL
from tests.support.weights import make_checkpoint

ARTIFACTS = [
    "train-progress",
    "pipeline-report",
    "data-card",
    "training",
    "training-epochs",
    "evaluation",
    "published-version",
    "batch-infer-classes",
    "batch-infer-progress",
    "batch-infer-summary",
    "batch-infer-gallery",
]

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images and one file that is none."""
    folder = tmp_path_factory.mktemp("inbox")
    for index in range(3):
        (folder / f"{index}.png").write_bytes(encode(draw(seed=index, label=index)))
    (folder / "notes.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, inbox: Path) -> tuple[Path, dict[str, Any]]:
    """A whole pipeline run on a dozen images: its folder and summary."""
    source = tmp_path_factory.mktemp("source")
    class_folders(source / "train", {"cat": 4, "dog": 4})
    class_folders(source / "val", {"cat": 2, "dog": 2}, seed=9)
    out = tmp_path_factory.mktemp("pipeline") / "run"
    settings = [*SMALL, "infer.max_error_share=0.5", f"storage.root={out.parent / 'store'}"]
    summary = pipeline_flow(
        str(source),
        str(inbox),
        str(out),
        recipe="digits",
        overrides=[*settings, "runtime.world_size=1"],
    )
    return out, summary


def test_the_pipeline_gives_every_result(finished: tuple[Path, dict[str, Any]]) -> None:
    out, summary = finished
    assert read_json(out / "summary.json") == summary
    assert 0 <= summary["top1"] <= 1
    assert summary["top5"] is None
    assert (summary["images"], summary["labelled"], summary["rejected"]) == (4, 3, 1)
    assert list(summary["seconds"]) == ["stage", "train", "evaluate", "publish", "infer"]
    assert summary["promoted"] is True
    assert Path(summary["report"]).read_text().lower().startswith("<!doctype html>")
    table = pq.read_table(summary["predictions"])
    assert table["path"].to_pylist() == ["0.png", "1.png", "2.png"]
    rejected = (out / "predictions" / "errors.jsonl").read_text()
    assert json.loads(rejected)["path"] == "notes.png"


async def read_run(flow_run_id: str) -> tuple[Any, list[Any], list[str], list[Any]]:
    """A run, and the tasks, lines and artifacts since it began: other tests share the server."""
    async with get_client() as client:
        run = await client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
        began = run.start_time
        tasks = await client.read_task_runs(
            task_run_filter=TaskRunFilter(start_time=TaskRunFilterStartTime(after_=began))
        )
        lines = await client.read_logs(
            log_filter=LogFilter(timestamp=LogFilterTimestamp(after_=began)), limit=200
        )
        key = ArtifactFilterKey(any_=ARTIFACTS)
        artifacts = await client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
        artifacts = [item for item in artifacts if item.created >= began]
        return run, tasks, [line.message for line in lines], artifacts


async def runs_inside(flow_run_id: str) -> list[Any]:
    async with get_client() as client:
        inside = FlowRunFilterParentFlowRunId(any_=[UUID(flow_run_id)])
        return list(
            await client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=inside))
        )


def test_the_dashboard_has_runs_lines_and_progress(
    finished: tuple[Path, dict[str, Any]], inbox: Path
) -> None:
    out, summary = finished
    run, tasks, logs, artifacts = asyncio.run(read_run(summary["flow_run_id"]))
    source = Path(read_json(out / "data" / "dataset.json")["source"]).name
    assert run.name == f"pipeline-tiny_one-{source}-e2"
    assert {ONE_BLOCK, f"data:{source}"} <= set(run.tags)
    assert run.state is not None
    assert run.state.is_completed()
    children = {child.name for child in asyncio.run(runs_inside(summary["flow_run_id"]))}
    assert children == {
        f"stage-{source}",
        f"train-tiny_one-{source}-e2",
        f"evaluate-tiny_one-{source}-val",
        "publish-tiny_one-as-digits",
        f"batch-infer-{inbox.name}",
    }
    names = {task.name for task in tasks}
    assert {f"train-{ONE_BLOCK}", "evaluate-val", "predict-shard-0"} <= names
    assert any("epoch 2/2 step 1/1 loss" in line for line in logs)
    artifacts = sorted(artifacts, key=lambda item: item.created)
    data, ids = (
        {item.key: item.data for item in artifacts},
        {item.key: item.id for item in artifacts},
    )
    assert set(data) == set(ARTIFACTS)
    assert data["train-progress"] == 100.0
    assert f"top-1 **{summary['top1']:.2%}**" in str(data["pipeline-report"])
    assert "**12 images**" in str(data["data-card"])
    assert "| cat | 4 | 2 |" in str(data["data-card"])
    assert "# 3 of 4 images labelled" in str(data["batch-infer-summary"])
    for key in ("training", "evaluation", "published-version", "batch-infer-gallery"):
        assert f"](../artifact/{ids[key]})" in str(data["pipeline-report"])
    assert str(data["training"]).startswith(f"# top-1 {summary['top1']:.2%}")
    assert str(data["training"]).count("](data:image/png;base64,") == 2
    assert len(str(data["training"])) < 500_000
    rows = json.loads(str(data["training-epochs"]))
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1]["top-1 %"] == round(100 * summary["top1"], 2)
    assert f"# top-1 {summary['top1']:.2%}" in str(data["evaluation"])
    assert summary["model_version"] in str(data["published-version"])
    assert "| state | production |" in str(data["published-version"])


def test_a_second_run_reuses_what_is_there(
    finished: tuple[Path, dict[str, Any]], inbox: Path, events: list[Event]
) -> None:
    out, first = finished
    source = read_json(out / "data" / "dataset.json")["source"]
    settings = [*SMALL, "infer.max_error_share=0.5", f"storage.root={out.parent / 'store'}"]
    again = pipeline_flow(
        source, str(inbox), str(out), recipe="digits", overrides=[*settings, "runtime.world_size=1"]
    )
    said = " | ".join(event.message for event in events)
    assert "is up to date" in said
    assert "finished already" in said
    assert again["model_version"] == first["model_version"]
    assert again["top1"] == first["top1"]


def test_a_model_that_the_gate_refuses_does_not_label(
    finished: tuple[Path, dict[str, Any]],
    inbox: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, first = finished
    store = f"storage.root={out.parent / 'store'}"
    settings = [*SMALL, store, "train.epochs=1", "schedule.warmup_epochs=0", "runtime.world_size=1"]
    settings += ["infer.max_error_share=0.5", "optim.base_lr=0.0000001"]
    settings += ["evaluate.promote_if=better", "evaluate.promote_margin=0.99"]
    found = pipeline_flow(
        read_json(out / "data" / "dataset.json")["source"],
        str(inbox),
        str(tmp_path / "out"),
        data=str(out / "data"),
        recipe="digits",
        overrides=settings,
    )
    assert not found["promoted"]
    assert found["model_version"] != found["labelled_by"] == f"store:{first['model_version']}"
    folders = (out / "predictions", tmp_path / "out" / "predictions")
    before, now = (read_json(folder / "summary.json")["model_sha256"] for folder in folders)
    assert now == before
    assert "is not in production" in caplog.text


def test_a_failed_stage_leaves_later_ones_unrun(tmp_path: Path, inbox: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        pipeline_flow(str(tmp_path / "nowhere"), str(inbox), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "train").exists()


def test_two_runs_never_have_one_folder(tmp_path: Path, inbox: Path) -> None:
    out = tmp_path / "out"
    weights = make_checkpoint(tmp_path / "model.ckpt")
    with sole_user(out, what="it"):
        with pytest.raises(FolderInUse, match=f"folder of the pipeline {out} is in use"):
            pipeline_flow(str(tmp_path / "nowhere"), str(inbox), str(out))
        with pytest.raises(FolderInUse, match=f"output folder {out} is in use"):
            batch_infer_flow(str(inbox), str(weights), str(out))


def test_stage_flow_alone(source_dir: Path, tmp_path: Path) -> None:
    dataset = stage_flow(str(source_dir), str(tmp_path / "data"))
    assert dataset.counts == {"train": 24, "val": 12}
