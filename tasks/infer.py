"""Label images, shard by shard."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event

from effnet_core import api
from effnet_core.config.schema import RunConfig
from effnet_core.infer.output import SUMMARY_NAME
from effnet_core.infer.places import open_output
from effnet_core.infer.plan import InferencePlan
from effnet_core.jobs.job import Shard
from effnet_core.quality.drift import is_reported, note_reported
from effnet_core.reports.predictions import PredictionsReport
from effnet_core.results import ShardCounts
from effnet_core.storage.addresses import is_s3
from effnet_core.text import NO_VALUE, format_seconds, markdown_code, markdown_text, visible
from effnet_core.weights.checkpoint import Checkpoint
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.progress import on_dashboard

TOPIC = "predict"
DRIFT_EVENT = "effnet.drift"
CLASSES_SHOWN = 100
"""Rows of the table of classes."""
REASONS_SHOWN = 20
TOTALS = ("images", "labelled", "rejected", "seconds", "images_per_s", "model_sha256")
"""What a run gives back; the classes and parts of a summary may be many."""


@task(name="find-model", **policies.INFER)
def find_model(config: RunConfig, weights: str) -> Checkpoint:
    """Open the checkpoint that the weights stand for now."""
    with credentials_of(config.storage):
        return api.open_weights(weights, config.storage)


@dataclass(frozen=True)
class Planned:
    """A labelling that is planned in its output."""

    missing: int
    """Shards that are to be labelled."""
    etag: str
    """Of the plan, where it is in a bucket."""


@task(name="plan-inference", **policies.INFER)
def plan_inference(
    config: RunConfig, checkpoint: Checkpoint, folder: str, output: str, *, only_new: bool = False
) -> Planned:
    """List the input, cut it into shards and claim the output, which holds the plan then."""
    with credentials_of(config.storage), open_output(output, config) as place:
        plan = api.plan_inference(checkpoint, [folder], place, config=config, only_new=only_new)
        return Planned(len(plan.missing()), place.plan_etag())


@task(name="predict-shard", task_run_name="predict-shard-{shard.index}", **policies.SHARD)
def predict_shard(
    config: RunConfig, plan: InferencePlan, shard: Shard, checkpoint: str, allowed_errors: int
) -> ShardCounts:
    """Label one shard in a child process and write its part file.

    Where the output is in a bucket, nothing else need be shared with the machine that planned the run.

    Args:
        config: settings of inference and storage.
        plan: the run, without its shards.
        shard: the one to label.
        checkpoint: path of the model.
        allowed_errors: how many of its files may be without an answer.
    """
    title = f"images {shard.start:,} to {shard.stop:,} of {plan.images:,}"
    with (
        credentials_of(config.storage),
        on_dashboard(f"predict-shard-{shard.index}", TOPIC, description=title),
        open_output(plan.shown(), config) as place,
    ):
        model = place.find_model(Path(checkpoint), shard.model_sha256)
        here = replace(plan, output=place.folder)
        (counts,) = api.infer_shards(
            here, [shard], model, config=config, allowed_errors=allowed_errors
        )
    return counts


@task(name="finish-inference", **policies.INFER)
def finish_inference(
    config: RunConfig, output: str, checkpoint: Checkpoint, weights: str
) -> dict[str, Any]:
    """Write totals once every shard is there; refuse when too many files could not be read.

    The classes become a table, the totals and the gallery pages on the dashboard.

    Returns:
        Totals, and where the folder and ``summary.json`` are.
    """
    with credentials_of(config.storage), open_output(output, config) as place:
        plan = place.read_plan()
        summary, report = api.finish_inference(
            plan, checkpoint, weights=weights, config=config, place=place
        )
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
    tell_of_drift(summary, output)
    if report:
        create_markdown_artifact(
            key="batch-infer-gallery",
            markdown=report.card,
            description="each class, and the least certain",
        )
    totals = {key: summary[key] for key in TOTALS}
    return {**totals, "output": output, "summary": plan.shown(SUMMARY_NAME)}


def tell_of_drift(summary: dict[str, Any], output: str) -> None:
    """Emit the event ``effnet.drift`` where a labelling's pictures are unlike the model's own.

    A finding is reported once, however often its run is repeated or continued; in a bucket each time.
    """
    found = summary.get("drift")
    folder = None if is_s3(output) else Path(output)
    if not found or not found["drifted"] or (folder and is_reported(folder)):
        return
    emit_event(
        DRIFT_EVENT,
        resource={
            "prefect.resource.id": f"effnet.model.{summary['model_sha256'][:12]}",
            "prefect.resource.name": f"model {summary['model_sha256'][:12]}",
        },
        payload={
            **{key: found[key] for key in ("distance", "threshold", "images", "far_share")},
            "output": str(folder.resolve()) if folder else output,
        },
    )
    if folder:
        note_reported(folder)


class Pace:
    """One progress bar for all shards of a run, with the rate and the time left."""

    def __init__(self, plan: InferencePlan) -> None:
        self.total = sum(shard.stop - shard.start for shard in plan.missing())
        self.kept = plan.images - self.total
        self.images, self.done, self.began = plan.images, 0, time.monotonic()
        self.artifact = create_progress_artifact(
            progress=100.0 * self.kept / plan.images,
            key="batch-infer-progress",
            description=f"{plan.images:,} images, {self.kept:,} of them labelled before",
        )

    def add(self, counts: ShardCounts) -> None:
        """Count a finished shard."""
        self.done += counts.stop - counts.start
        rate = self.done / (time.monotonic() - self.began)
        left = format_seconds((self.total - self.done) / rate)
        update_progress_artifact(
            self.artifact,  # type: ignore[arg-type]  # an UUID, outside asynchronous code
            progress=100.0 * (self.kept + self.done) / self.images,
            description=f"{self.kept + self.done:,} of {self.images:,} images, {rate:.1f} images/s, "
            f"{left} left",
        )


def _in_words(drift: dict[str, Any]) -> str:
    verdict = "**drifted**" if drift["drifted"] else "like the held-out pictures"
    return f"{verdict}: distance {drift['distance']:.2f}, threshold {drift['threshold']:.2f}"


def _page(plan: InferencePlan, summary: dict[str, Any], report: PredictionsReport | None) -> str:
    """The totals as Markdown."""
    latency = ", ".join(f"{name} {value:.1f} ms" for name, value in summary["latency_ms"].items())
    drift = summary.get("drift")
    rows = {
        **({"drift": _in_words(drift)} if drift else {}),
        "rate": f"{summary['images_per_s']:.1f} images/s",
        "time an image takes on a core": latency,
        "set aside": f"{summary['rejected']:,}",
        "input": markdown_code(str(plan.root)),
        "output": markdown_code(plan.shown()),
        "report": markdown_code(report.path) if report else NO_VALUE,
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    title = f"# {summary['labelled']:,} of {summary['images']:,} images labelled"
    charts = f"{report.charts}\n\n" if report else ""
    found = list(summary["rejected_by_reason"].items())
    reasons = "".join(
        f"- {count:,} files: {markdown_text(reason)}\n" for reason, count in found[:REASONS_SHOWN]
    )
    if len(found) > REASONS_SHOWN:
        reasons += f"- and {len(found) - REASONS_SHOWN:,} more reasons\n"
    aside = f"\n### Set aside\n\n{reasons}" if reasons else ""
    return f"{title}\n\n{charts}| | |\n|---|---|\n{table}{aside}"
