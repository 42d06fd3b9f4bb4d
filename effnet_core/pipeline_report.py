"""Gather what a pipeline run left behind into a report, a summary and a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effnet_core.config import CONFIG_NAME, RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.events import Event, emit
from effnet_core.files import iter_jsonl, read_json, read_jsonl, write_json
from effnet_core.gallery import COLUMNS, Selection
from effnet_core.inference_plan import RUN_NAME
from effnet_core.input_sources import open_source
from effnet_core.job import METRICS_NAME
from effnet_core.model_store.publication import Published
from effnet_core.plots import accuracy_curve, beside, loss_curve, png_data_uri
from effnet_core.predictions import ERRORS_NAME, iter_rows
from effnet_core.predictions import SUMMARY_NAME as PREDICTIONS_SUMMARY
from effnet_core.report import Rejected, ReportInputs, write_report
from effnet_core.results import EvalResult
from effnet_core.runs import training_result

REPORT_NAME = "report.html"
SUMMARY_NAME = "summary.json"


def write_pipeline_report(
    config: RunConfig,
    out: Path,
    *,
    data_dir: Path,
    evaluation: Path,
    published: Published,
    seconds: dict[str, float],
    flow_run_id: str,
) -> tuple[dict[str, Any], str]:
    """Write ``report.html`` and ``summary.json`` into ``out``.

    Args:
        config: settings of the run.
        out: holds ``train/`` and ``predictions/``, whose results are read from there.
        data_dir: the staged data set.
        evaluation: the file with the result of evaluation.
        published: what was published.
        seconds: of each stage.
        flow_run_id: of the pipeline's run, empty where there is none.

    Returns:
        The summary, and a Markdown card for a dashboard.
    """
    dataset = open_dataset(data_dir)
    run_dir, predictions_dir = out / "train", out / "predictions"
    trained, measured = training_result(run_dir), EvalResult.read(evaluation)
    inference = read_json(predictions_dir / PREDICTIONS_SUMMARY)
    metrics = read_jsonl(run_dir / METRICS_NAME)
    facts = {
        "variant": config.model.variant,
        "data": f"{dataset.num_classes} classes, "
        + ", ".join(f"{count:,} {name}" for name, count in dataset.counts.items())
        + f", {dataset.rejected} set aside",
        "image size": f"{config.image_size} px",
        "training": f"{trained.epochs} epochs, {trained.steps} steps on "
        f"{trained.world_size} process(es), {trained.images_per_s:.1f} images/s",
        "version": published.version + (" (production)" if published.promoted else ""),
        "store": published.uri,
    }
    report = write_report(
        out / REPORT_NAME,
        ReportInputs(
            title=f"{config.model.variant} on {config.storage.name}",
            facts=facts,
            stages=seconds,
            metrics=metrics,
            evaluation=measured,
            selection=Selection.of(iter_rows(predictions_dir, COLUMNS)),
            rejected=Rejected.of(iter_jsonl(predictions_dir / ERRORS_NAME)),
            source=open_source(read_json(predictions_dir / RUN_NAME)["input"], config.storage),
            config_yaml=(run_dir / CONFIG_NAME).read_text(encoding="utf-8"),
        ),
    )
    summary = {
        "top1": measured.top1,
        "top5": measured.top5,
        "world_size": trained.world_size,
        "seconds": seconds,
        "predictions": str(predictions_dir / inference["parts"][0]),
        "images": inference["images"],
        "labelled": inference["labelled"],
        "rejected": inference["rejected"],
        "train_images_per_s": trained.images_per_s,
        "infer_images_per_s": inference["images_per_s"],
        "model_version": published.version,
        "promoted": published.promoted,
        "store": published.uri,
        "weights_digest": trained.weights_digest,
        "report": str(report),
        "flow_run_id": flow_run_id,
    }
    write_json(out / SUMMARY_NAME, summary)
    emit(Event("report", f"report: {report}", 1, 1))
    return summary, _card(facts, summary, metrics)


def _card(facts: dict[str, str], summary: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """Headline numbers and curves as Markdown, pictures inside."""
    top5 = "" if summary["top5"] is None else f", top-5 **{summary['top5']:.2%}**"
    curves = beside(loss_curve(metrics), accuracy_curve(metrics))
    lines = [
        f"# top-1 **{summary['top1']:.2%}**{top5}",
        "",
        f"![loss and accuracy]({png_data_uri(curves)})",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        f"| labelled | {summary['labelled']} of {summary['images']} images |",
        f"| report | `{summary['report']}` |",
        "",
    ]
    return "\n".join(lines)
