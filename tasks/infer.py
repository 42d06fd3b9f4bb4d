"""Label images, shard by shard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from effnet_core import api
from effnet_core.config.schema import RunConfig
from effnet_core.infer.plan import Plan, Shard
from effnet_core.model_store.versions import from_store
from effnet_core.reports.predictions import PredictionsReport
from effnet_core.results import ShardResult
from effnet_core.text import NO_VALUE, format_seconds, markdown_code, markdown_text, visible
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.progress import on_dashboard

STAGE = "predict"
CLASSES_SHOWN = 100
"""Rows of the table of classes."""


@task(name="find-model", **policies.INFER)
def find_model(config: RunConfig, weights: str) -> str:
    """The checkpoint that ``production`` or a version stands for now; other weights as they are."""
    with credentials_of(config.storage):
        return str(from_store(weights, config.storage))


@task(name="plan-inference", **policies.INFER)
def plan_inference(
    config: RunConfig, checkpoint: str, folder: str, output: str, *, only_new: bool = False
) -> Plan:
    """List the input, cut it into shards and claim the output folder."""
    with credentials_of(config.storage):
        return api.plan_inference(
            checkpoint, [folder], Path(output), config=config, only_new=only_new
        )


@task(name="predict-shard", task_run_name="predict-shard-{shard.index}", **policies.SHARD)
def predict_shard(config: RunConfig, plan: Plan, shard: Shard, checkpoint: str) -> ShardResult:
    """Label one shard in a child process and write its part file."""
    title = f"images of shard {shard.index + 1} of {len(plan.shards)}"
    with (
        credentials_of(config.storage),
        on_dashboard(f"predict-shard-{shard.index}", STAGE, description=title),
    ):
        results = api.infer_shards(plan, [shard], checkpoint, config=config)
    return results[0]


@task(name="finish-inference", **policies.INFER)
def finish_inference(config: RunConfig, plan: Plan, checkpoint: str) -> dict[str, Any]:
    """Write totals once every shard is there; refuse when too many files could not be read.

    The classes become a table, the totals and the gallery pages on the dashboard.
    """
    with credentials_of(config.storage):
        summary, report = api.finish_inference(plan, checkpoint, config=config)
    classes = list(summary["classes"].items())
    create_table_artifact(
        key="batch-infer-classes",
        table=[
            {"class": visible(name), "images": count, "share": f"{count / summary['labelled']:.2%}"}
            for name, count in classes[:CLASSES_SHOWN]
        ],
        description=f"The {min(CLASSES_SHOWN, len(classes))} most frequent of {len(classes)} classes",
    )
    create_markdown_artifact(
        key="batch-infer-summary",
        markdown=_page(plan, summary, report),
        description=f"{summary['labelled']:,} labelled, {summary['rejected']:,} set aside, "
        f"{summary['images_per_s']:.1f} images/s",
    )
    if report:
        create_markdown_artifact(
            key="batch-infer-gallery",
            markdown=report.card,
            description="each class, and the least certain",
        )
    return summary


class Pace:
    """One progress bar for all shards of a run, with the rate and the time left."""

    def __init__(self, plan: Plan, missing: list[Shard]) -> None:
        self.total = sum(shard.stop - shard.start for shard in missing)
        self.kept = plan.images - self.total
        self.images, self.done, self.began = plan.images, 0, time.monotonic()
        self.artifact = create_progress_artifact(
            progress=100.0 * self.kept / plan.images,
            key="batch-infer-progress",
            description=f"{plan.images:,} images, {self.kept:,} of them labelled before",
        )

    def add(self, result: ShardResult) -> None:
        """Count a finished shard."""
        self.done += result.stop - result.start
        rate = self.done / (time.monotonic() - self.began)
        left = format_seconds((self.total - self.done) / rate)
        update_progress_artifact(
            self.artifact,  # type: ignore[arg-type]  # an UUID, outside asynchronous code
            progress=100.0 * (self.kept + self.done) / self.images,
            description=f"{self.kept + self.done:,} of {self.images:,} images, {rate:.1f} images/s, "
            f"{left} left",
        )


def _page(plan: Plan, summary: dict[str, Any], report: PredictionsReport | None) -> str:
    """The totals as Markdown."""
    latency = ", ".join(f"{name} {value:.1f} ms" for name, value in summary["latency_ms"].items())
    rows = {
        "rate": f"{summary['images_per_s']:.1f} images/s",
        "time an image takes on a core": latency,
        "set aside": f"{summary['rejected']:,}",
        "input": markdown_code(str(plan.root)),
        "output": markdown_code(str(plan.output)),
        "report": markdown_code(str(report.path)) if report else NO_VALUE,
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    title = f"# {summary['labelled']:,} of {summary['images']:,} images labelled"
    charts = f"{report.charts}\n\n" if report else ""
    reasons = "".join(
        f"- {count:,} files: {markdown_text(reason)}\n"
        for reason, count in summary["rejected_by_reason"].items()
    )
    aside = f"\n### Set aside\n\n{reasons}" if reasons else ""
    return f"{title}\n\n{charts}| | |\n|---|---|\n{table}{aside}"
