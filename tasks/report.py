"""Write the report and the summary of a pipeline run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact

from effnet_core.config import RunConfig
from effnet_core.pipeline_report import write_pipeline_report
from effnet_core.publish import Published
from effnet_core.results import EvalResult, TrainResult
from tasks import policies
from tasks.reporting import on_dashboard


@task(name="write-report", **policies.REPORT)
def write_report(
    config: RunConfig,
    out: str,
    *,
    data: str,
    trained: TrainResult,
    evaluation: EvalResult,
    published: Published,
    inference: dict[str, Any],
    seconds: dict[str, float],
    flow_run_id: str,
) -> dict[str, Any]:
    """The content of ``summary.json``, which lies beside ``report.html``; a card on the dashboard."""
    with on_dashboard("report-progress", "report", description="report"):
        summary, card = write_pipeline_report(
            config,
            Path(out),
            data_dir=Path(data),
            trained=trained,
            evaluation=evaluation,
            published=published,
            inference=inference,
            seconds=seconds,
            flow_run_id=flow_run_id,
        )
    create_markdown_artifact(card, key="pipeline-report", description="result of the pipeline")
    return summary
