"""Markdown cards of finished work for the dashboard."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from effnet_core.model_store.publication import PublishedVersion
from effnet_core.results import EvalResult
from effnet_core.text import markdown_code, markdown_text
from effnet_core.weights.web import redacted
from tasks.dashboard.progress import never_in_the_way

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


def show_evaluation(result: EvalResult, weights: str) -> None:
    """Accuracy of a checkpoint, and its classes from worst to best."""
    top5 = "" if result.top5 is None else f", top-5 {result.top5:.2%}"
    confusion = result.confusion
    columns = zip(
        result.class_names, confusion.by_true().tolist(), confusion.right().tolist(), strict=False
    )
    classes = [(right / images, name, images) for name, images, right in columns if images]
    classes.sort(key=lambda item: item[0])
    rows = [[markdown_text(name), f"{images:,}", f"{share:.2%}"] for share, name, images in classes]
    facts = [
        [
            "images",
            f"{result.seen:,} of split {markdown_text(result.split)}, every one counted once",
        ],
        ["loss", f"{result.loss:.4f}"],
        ["weights", markdown_code(redacted(str(weights)))],
        ["took", f"{result.seconds:.0f} s on {result.world_size} process(es)"],
    ]
    parts = [
        f"# top-1 {result.top1:.2%}{top5}",
        _table(["", ""], facts),
        _table(["class, worst first", "images", "right"], rows),
    ]
    _show("evaluation", "\n\n".join(parts), "accuracy")


def _show(key: str, text: str, description: str) -> None:
    with never_in_the_way(f"the card {key!r}"):
        create_markdown_artifact(text, key=key, description=description)


def _table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, cut after so many rows."""
    lines = [header, ["---"] * len(header), *rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines.append([f"and {len(rows) - MOST_ROWS:,} more", *[""] * (len(header) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
