"""Markdown cards of finished work for the dashboard."""

from __future__ import annotations

from math import isnan

from prefect.artifacts import create_markdown_artifact

from effnet_core.model_store.publication import PublishedVersion
from effnet_core.render.plots import (
    beside,
    confusion_matrix,
    png_data_uri,
)
from effnet_core.render.quality import reliability_diagram
from effnet_core.reports.evaluation import EvaluationReport
from effnet_core.reports.predictions import strip
from effnet_core.results import EvalResult
from effnet_core.results.per_class import PerClass
from effnet_core.text import NO_VALUE, markdown_code, markdown_text
from effnet_core.weights.web import redacted
from tasks.dashboard.progress import never_in_the_way

MOST_PICTURES = 12
MOST_ROWS = 40
"""Rows of a table on a card; what is left out is counted."""


def show_published(published: PublishedVersion) -> None:
    """Which version was published, and whether it is in production."""
    state = (
        "production" if published.promoted else f"not promoted: {markdown_text(published.reason)}"
    )
    facts = [
        ["state", state],
        *([["gate", markdown_text(published.gate)]] if published.gate else []),
        ["top-1", f"{published.top1:.2%}"],
        ["address", markdown_code(published.uri)],
        ["uploaded", "no, it was there already" if published.reused else "yes"],
    ]
    title = f"# {markdown_text(f'{published.name} {published.version}')}"
    _show("published-version", f"{title}\n\n{_table(['', ''], facts)}", "the published version")


def show_evaluation(
    result: EvalResult, weights: str, report: EvaluationReport | None = None
) -> None:
    """Accuracy of a checkpoint, its classes from worst to best, its surest mistakes."""
    top5 = "" if result.top5 is None else f", top-5 {result.top5:.2%}"
    confusion = result.confusion
    figures = PerClass.of(confusion)
    columns = figures.precision, figures.recall, figures.f1
    rows = [
        [
            markdown_text(result.class_names[i]),
            f"{figures.images[i]:,}",
            *(NO_VALUE if isnan(column[i]) else f"{column[i]:.2%}" for column in columns),
        ]
        for i in figures.worst(len(figures.images))
    ]
    facts = [
        [
            "images",
            f"{result.seen:,} of split {markdown_text(result.split)}, every one counted once",
        ],
        ["loss", f"{result.loss:.4f}"],
        *_averages(figures),
        *_calibration(result),
        ["weights", markdown_code(redacted(str(weights)))],
        ["took", f"{result.seconds:.0f} s on {result.world_size} process(es)"],
    ]
    parts = [
        f"# top-1 {result.top1:.2%}{top5}",
        _table(["", ""], facts),
        _table(["class, worst first", "images", "precision", "recall", "F1"], rows),
        *_charts(result),
    ]
    if report is not None:
        if report.mistakes:
            parts += ["### Surest mistakes", "\n".join(strip(report.mistakes[:MOST_PICTURES]))]
        parts.append(f"Files and page: {markdown_code(str(report.path))}")
    _show("evaluation", "\n\n".join(parts), "accuracy")


def _averages(figures: PerClass) -> list[list[str]]:
    """Macro and weighted averages."""
    return [
        [name, f"precision {found.precision:.2%}, recall {found.recall:.2%}, F1 {found.f1:.2%}"]
        for name, found in (("macro", figures.macro()), ("weighted", figures.weighted()))
        if figures.images.any()
    ]


def _calibration(result: EvalResult) -> list[list[str]]:
    found = result.calibration
    if found is None:
        return []
    before = f", {found.before.ece:.2%} before" if found.temperature != 1 else ""
    return [["calibration error", f"{found.after.ece:.2%}{before}"]]


def _charts(result: EvalResult) -> list[str]:
    """Confusion matrix and reliability diagram, as one picture."""
    if not result.confusion:
        return []
    pictures = [confusion_matrix(result.confusion, result.class_names)]
    found = result.calibration
    if found is not None:
        before, after = (
            [(x, y) for x, y, _ in part.points()] for part in (found.before, found.after)
        )
        after = after if found.temperature != 1 else []
        pictures.append(reliability_diagram(before, after, found.after.images))
    return [f"![confusion matrix and reliability]({png_data_uri(beside(*pictures))})"]


def _show(key: str, text: str, description: str) -> None:
    with never_in_the_way(f"the card {key!r}"):
        create_markdown_artifact(text, key=key, description=description)


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, cut after so many rows."""
    lines = [header, ["---"] * len(header), *rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines.append([f"and {len(rows) - MOST_ROWS:,} more", *[""] * (len(header) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
