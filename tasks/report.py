"""Write the report and the summary of a pipeline run."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas import filters

from effnet_core.config.schema import RunConfig
from effnet_core.model_store.publication import PublishedVersion
from effnet_core.reports.pipeline import write_pipeline_report
from tasks import policies
from tasks.dashboard.progress import never_in_the_way, on_dashboard

PAGES = {
    "data-card": "data",
    "training": "training",
    "evaluation": "accuracy by class",
    "published-version": "published version",
    "batch-infer-summary": "labelling",
    "batch-infer-gallery": "gallery",
}
"""Artifacts of the runs inside a pipeline, and what a link to each is called."""


@task(name="write-report", **policies.REPORT)
def write_report(
    config: RunConfig,
    out: str,
    *,
    data: str,
    evaluation: str,
    published: PublishedVersion,
    labelled_by: str,
    seconds: dict[str, float],
    flow_run_id: str,
) -> dict[str, Any]:
    """The content of ``summary.json``, which lies beside ``report.html``; a card on the dashboard."""
    with on_dashboard("report-progress", "report", description="report"):
        summary, card = write_pipeline_report(
            config,
            Path(out),
            data_dir=Path(data),
            evaluation=Path(evaluation),
            published=published,
            labelled_by=labelled_by,
            seconds=seconds,
            flow_run_id=flow_run_id,
        )
    title, _, rest = card.partition("\n")
    card = f"{title}\n\n{_links(flow_run_id)}\n{rest}"
    create_markdown_artifact(card, key="pipeline-report", description="result of the pipeline")
    return summary


def _links(flow_run_id: str) -> str:
    """The pages that the runs inside a run have left, as Markdown; each address is relative to a page."""
    found: dict[str, str] = {}
    with never_in_the_way("the links of the report"), get_client(sync_client=True) as client:
        inside = filters.FlowRunFilterParentFlowRunId(any_=[UUID(flow_run_id)])
        runs = client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(parent_flow_run_id=inside)
        )
        wanted = filters.ArtifactFilter(
            flow_run_id=filters.ArtifactFilterFlowRunId(any_=[run.id for run in runs]),
            key=filters.ArtifactFilterKey(any_=list(PAGES)),
        )
        artifacts = client.read_artifacts(artifact_filter=wanted)
        found = {str(item.key): f"../artifact/{item.id}" for item in artifacts}
    return " · ".join(f"[{name}]({found[key]})" for key, name in PAGES.items() if key in found)
