"""What a pipeline run did, as one HTML file that needs nothing else: all pictures are inside.

This module decides what is shown and how much of it; ``templates/report.html.j2`` decides how.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.config.load import CONFIG_NAME
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.events import Event, emit
from effnet_core.infer.output import ERRORS_NAME, Reasons, background_of
from effnet_core.infer.output import SUMMARY_NAME as PREDICTIONS_SUMMARY
from effnet_core.infer.parts import iter_rows
from effnet_core.infer.plan import planned_reader
from effnet_core.infer.readers import ImageReader
from effnet_core.jobs.job import METRICS_NAME, RESULT_NAME
from effnet_core.model_store.publication import PublishedVersion
from effnet_core.render import plots
from effnet_core.render.pages import Card, write_page
from effnet_core.render.plots import accuracy_curve, beside, loss_curve, png_data_uri
from effnet_core.reports.gallery import COLUMNS, Selection
from effnet_core.reports.training import describe_training
from effnet_core.results import EvalResult, TrainResult
from effnet_core.system.files import iter_jsonl, read_json, read_jsonl, write_json
from effnet_core.text import NO_VALUE, format_share, markdown_code, markdown_text

TEMPLATE_NAME = "report.html.j2"
REPORT_NAME = "report.html"
SUMMARY_NAME = "summary.json"
MAX_REJECTED = 50
MAX_REASONS = 6


@dataclass(frozen=True)
class ReportInputs:
    """Everything that a report shows."""

    title: str
    """Such as "efficientnet_b0 on digits"."""
    facts: dict[str, str]
    """Short facts by name, shown under the title."""
    steps: dict[str, float]
    """Seconds of each step, in order."""
    metrics: list[dict[str, Any]]
    """Rows of ``metrics.jsonl``."""
    evaluation: EvalResult
    selection: Selection
    """The predictions, counted and chosen one by one."""
    rejected: Rejected
    source: ImageReader
    """What reads the predictions' paths."""
    config_yaml: str


def write_report(path: Path, inputs: ReportInputs) -> Path:
    """Write the report of a run as one self-contained HTML file, atomically.

    Returns:
        ``path``.
    """
    return write_page(path, TEMPLATE_NAME, _describe_page(inputs))


def _describe_page(inputs: ReportInputs) -> dict[str, Any]:
    selection = inputs.selection
    groups, gallery_note = selection.groups(inputs.source)
    return {
        "title": inputs.title,
        "facts": inputs.facts,
        "cards": list(_make_cards(inputs)),
        **describe_training(inputs.evaluation, inputs.metrics),
        "groups": groups,
        "gallery_note": gallery_note,
        "uncertain": selection.uncertain(inputs.source),
        "labelled": selection.labelled,
        "steps": inputs.steps,
        **describe_rejected(inputs.rejected),
        "config_yaml": inputs.config_yaml,
    }


@dataclass(frozen=True)
class Rejected:
    """Files without an answer: some of them, and how often which reason."""

    count: int
    samples: tuple[dict[str, Any], ...]
    """Path and reason of the first ones."""
    reasons: tuple[tuple[str, int], ...]
    """The most frequent reasons."""

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Rejected:
        """What is kept of rows with ``path`` and ``reason``; its size does not grow with them."""
        samples: list[dict[str, Any]] = []
        reasons = Reasons()
        for row in rows:
            reasons.add(str(row["reason"]))
            if len(samples) < MAX_REJECTED:
                samples.append(row)
        return cls(reasons.total, tuple(samples), tuple(reasons.most_common(MAX_REASONS)))


def describe_rejected(rejected: Rejected) -> dict[str, Any]:
    """What the section "set aside" shows of files without an answer."""
    return {
        "rejected": rejected.samples,
        "rejected_count": rejected.count,
        "reasons": rejected.reasons,
    }


def _make_cards(inputs: ReportInputs) -> Iterator[Card]:
    result = inputs.evaluation
    where = f" of {result.split}" if result.split else ""
    top1 = result.top1 if result.seen else None
    note = f"{result.correct1:,} of {result.seen:,} images{where} right"
    yield Card("Top-1 accuracy", format_share(top1, 2), note)
    top5 = result.top5 if result.seen else None
    note = "needs five classes or more" if top5 is None else "right class among the best five"
    yield Card("Top-5 accuracy", format_share(top5, 2), note)
    speed, note = _measure_speed(inputs)
    yield Card("Images per second", NO_VALUE if speed is None else f"{speed:,.1f}", note)
    aside = inputs.rejected.count
    note = f"{aside:,} file{'' if aside == 1 else 's'} set aside" if aside else "no file set aside"
    yield Card("Images labelled", f"{inputs.selection.labelled:,}", note)


def _measure_speed(inputs: ReportInputs) -> tuple[float | None, str]:
    """Images a second and what they were measured in."""
    speeds = plots.select_points(inputs.metrics, "train", x="step", y="images_per_s")
    if speeds:  # the first value holds the compilation
        return statistics.median(y for _, y in speeds[1:] or speeds), "in training, median"
    result = inputs.evaluation
    if result.seen and result.seconds > 0:
        return result.seen / result.seconds, "in evaluation"
    return None, "not measured"


def write_pipeline_report(
    config: RunConfig,
    out: Path,
    *,
    data_dir: Path,
    evaluation: Path,
    published: PublishedVersion,
    labelled_by: str,
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
        labelled_by: the version that labelled.
        seconds: of each step.
        flow_run_id: of the pipeline's run, empty where there is none.

    Returns:
        The summary, and a Markdown card for a dashboard.
    """
    dataset = open_dataset(data_dir)
    run_dir, predictions_dir = out / "train", out / "predictions"
    trained, measured = TrainResult.read(run_dir / RESULT_NAME), EvalResult.read(evaluation)
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
        **_calibration_fact(measured),
        "version": published.version + (" (production)" if published.promoted else ""),
        "labelled by": labelled_by,
        "store": published.uri,
    }
    report = write_report(
        out / REPORT_NAME,
        ReportInputs(
            title=f"{config.model.variant} on {config.storage.name}",
            facts=facts,
            steps=seconds,
            metrics=metrics,
            evaluation=measured,
            selection=Selection.of(iter_rows(predictions_dir, COLUMNS), background_of(inference)),
            rejected=Rejected.of(iter_jsonl(predictions_dir / ERRORS_NAME)),
            source=planned_reader(predictions_dir, config.storage),
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
        "labelled_by": labelled_by,
        "store": published.uri,
        "weights_digest": trained.weights_digest,
        "report": str(report),
        "flow_run_id": flow_run_id,
    }
    write_json(out / SUMMARY_NAME, summary)
    emit(Event("report", f"report: {report}", 1, 1))
    return summary, _card(facts, summary, metrics)


def _calibration_fact(measured: EvalResult) -> dict[str, str]:
    """How honest the probabilities are, where that is known."""
    found = measured.calibration
    if found is None:
        return {}
    before = f", {found.before.ece:.2%} before calibration" if found.temperature != 1 else ""
    return {"calibration error": f"{found.after.ece:.2%}{before}"}


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
        *(f"| {name} | {markdown_text(value)} |" for name, value in facts.items()),
        f"| labelled | {summary['labelled']} of {summary['images']} images |",
        f"| report | {markdown_code(summary['report'])} |",
        "",
    ]
    return "\n".join(lines)
