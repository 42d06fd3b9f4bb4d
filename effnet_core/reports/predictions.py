"""What a batch inference found, as one HTML file beside its parts, and as Markdown for a dashboard.

A million answers are read once, in constant memory; the page holds a few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from effnet_core.config.schema import StorageConfig
from effnet_core.data.imagenet import readable
from effnet_core.infer.output import ERRORS_NAME, background_of
from effnet_core.infer.parts import iter_rows
from effnet_core.infer.plan import InferencePlan, planned_reader
from effnet_core.infer.readers import ImageReader
from effnet_core.quality.heat import as_address, explain_pictures
from effnet_core.render import plots
from effnet_core.render.pages import Card, Chart, draw_chart, write_page
from effnet_core.reports.annotate import MAX_NAME_BYTES
from effnet_core.reports.gallery import (
    CERTAINTY_BINS,
    COLUMNS,
    Group,
    Picture,
    Selection,
    read_picture,
)
from effnet_core.reports.pipeline import Rejected, describe_rejected
from effnet_core.system.files import atomic_path, iter_jsonl, make_folder
from effnet_core.text import NO_VALUE, format_share, markdown_code, markdown_text
from effnet_core.weights.checkpoint import Checkpoint

REPORT_NAME = "report.html"
EXPLAINED_NAME = "explained"
TEMPLATE_NAME = "predictions.html.j2"
MAX_CLASS_ROWS = 50
MAX_FARTHEST = 12
MAX_CARD_PICTURES = 12
"""Pictures of each kind on the dashboard's card."""
SURE = 0.5
"""An answer below this probability counts as uncertain."""


@dataclass(frozen=True)
class PredictionsReport:
    """Where the page is, and its pictures as Markdown."""

    path: str
    """Where the page is, for people."""
    card: str
    """A few of the pictures."""
    charts: str
    """The most frequent classes, and how sure the model is; empty without an answer."""


def write_predictions_report(
    done: InferencePlan,
    summary: dict[str, Any],
    *,
    weights: str,
    storage: StorageConfig,
    rows: Callable[[tuple[str, ...]], Iterable[dict[str, Any]]] | None = None,
    explain: Checkpoint | None = None,
) -> PredictionsReport:
    """Write ``report.html`` into the output of a finished batch inference.

    Args:
        done: the run.
        summary: as ``output.finish`` gives it.
        weights: what the user called the model.
        storage: how a bucket's pictures are read.
        rows: gives some columns of all answers, each time that it is called; of the folder by default.
        explain: the model, where the least certain pictures are to show what spoke for their answer.
    """
    rows = rows or partial(iter_rows, done.output)
    selection = Selection.of(rows(COLUMNS), background_of(summary))
    source = planned_reader(done.output, storage)
    farthest = [path for path, _ in (summary.get("drift") or {}).get("farthest", ())]
    source.look_up([*selection.paths(), *farthest[:MAX_FARTHEST]])
    groups, note = selection.groups(source)
    uncertain = selection.uncertain(source)
    if explain is not None:
        uncertain = _explained(uncertain, explain, source, done.output / EXPLAINED_NAME)
    classes = list(summary["classes"].items())
    values = {
        "title": f"{summary['labelled']:,} images labelled",
        "facts": {
            "input": done.root,
            "model": weights,
            "digest": summary["model_sha256"][:12],
            "output": done.shown(),
            **_engine(summary),
        },
        "cards": _make_cards(summary, selection),
        "certainty": _draw_certainty(selection),
        "class_rows": classes[:MAX_CLASS_ROWS],
        "classes": len(classes),
        "labelled": selection.labelled,
        "groups": groups,
        "gallery_note": note,
        "uncertain": uncertain,
        "drift": summary.get("drift"),
        "farthest": _farthest(rows, summary, source),
        **describe_rejected(Rejected.of(iter_jsonl(done.output / ERRORS_NAME))),
    }
    write_page(done.output / REPORT_NAME, TEMPLATE_NAME, values)
    where = done.shown(REPORT_NAME)
    return PredictionsReport(
        where, _card(groups, uncertain, where), _charts_card(classes, selection)
    )


def _engine(summary: dict[str, Any]) -> dict[str, str]:
    """What computed, and why that."""
    found = summary.get("engine")
    return {"engine": found["why"].removeprefix("engine: ")} if found else {}


def _farthest(
    rows: Callable[[tuple[str, ...]], Iterable[dict[str, Any]]],
    summary: dict[str, Any],
    source: ImageReader,
) -> list[Picture]:
    """Pictures that are least like those that the model was made for, where that was measured."""
    wanted = {
        path: place
        for place, (path, _) in enumerate((summary.get("drift") or {}).get("farthest", ()))
    }
    wanted = dict(list(wanted.items())[:MAX_FARTHEST])
    if not wanted:
        return []
    found = {row["path"]: row for row in rows(COLUMNS) if row["path"] in wanted}
    background = background_of(summary)
    return [read_picture(found[path], source, background) for path in wanted if path in found]


def _explained(
    pictures: list[Picture], checkpoint: Checkpoint, source: ImageReader, folder: Path
) -> list[Picture]:
    """The same pictures with what spoke for their answers, which is also written as PNG files."""
    names = {name: i for i, name in enumerate(readable(checkpoint.sidecar.class_names))}
    wanted = [(picture.path, names[picture.answers[0][0]]) for picture in pictures]
    found = explain_pictures(checkpoint, source, wanted)
    make_folder(folder, what="folder of explained pictures")
    for number, (path, picture) in enumerate(found.items(), start=1):
        stem = PurePosixPath(path).stem.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
        with atomic_path(folder / f"{number:02d}-{stem}.png") as temporary:
            picture.save(temporary, "PNG")
    return [
        replace(one, heat=as_address(found[one.path])) if one.path in found else one
        for one in pictures
    ]


def _make_cards(summary: dict[str, Any], selection: Selection) -> list[Card]:
    labelled, aside = summary["labelled"], summary["rejected"]
    counts = selection.certainty
    unsure = int(counts[: int(SURE * CERTAINTY_BINS)].sum())
    latency = summary["latency_ms"].get("p50")
    return [
        Card("Images labelled", f"{labelled:,}", f"of {summary['images']:,} files"),
        Card("Set aside", f"{aside:,}", "files without an answer" if aside else "every file read"),
        Card(
            "Images per second",
            f"{summary['images_per_s']:,.1f}",
            "" if latency is None else f"{latency:.1f} ms of a core for an image, median",
        ),
        Card(
            "Uncertain",
            format_share(unsure / labelled) if labelled else NO_VALUE,
            f"best class below {SURE:.0%}",
        ),
    ]


def _draw_certainty(selection: Selection) -> Chart | None:
    counts = selection.certainty
    if not counts.any():
        return None
    peak = int(np.argmax(counts)) / CERTAINTY_BINS
    alt = (
        f"Probability of the best class of {selection.labelled} images, most often "
        f"{peak:.0%} to {peak + 1 / CERTAINTY_BINS:.0%}."
    )
    return draw_chart("How sure the model is", alt, plots.certainty_histogram, counts.tolist())


def _charts_card(classes: list[tuple[str, int]], selection: Selection) -> str:
    """The most frequent classes and how sure the model is, as one picture in Markdown."""
    counts = selection.certainty
    if not counts.any():
        return ""
    both = plots.class_bars(classes), plots.certainty_histogram(counts.tolist())
    alt = "The most frequent classes, and the probability of the best class"
    return f"![{alt}]({plots.png_data_uri(plots.beside(*both))})"


def _card(groups: list[Group], uncertain: list[Picture], path: str) -> str:
    """A few pictures as Markdown: one of each frequent class, and the least certain."""
    frequent = sorted(groups, key=lambda group: -group.count)[:MAX_CARD_PICTURES]
    samples = [group.pictures[0] for group in frequent if group.pictures]
    lines = []
    if samples:
        lines += ["### One of each frequent class", "", *strip(samples)]
    if uncertain:
        lines += ["", "### Least certain", "", *strip(uncertain[:MAX_CARD_PICTURES])]
    return "\n".join([*lines, "", f"More pictures: {markdown_code(path)}", ""])


def strip(pictures: list[Picture], columns: int = 6) -> list[str]:
    """A Markdown table of pictures, their best class and its probability below."""
    columns = min(columns, len(pictures))
    lines = ["| " * columns + "|", "|---" * columns + "|"]
    for start in range(0, len(pictures), columns):
        row = pictures[start : start + columns]
        shown = [f"![{markdown_text(p.path)}]({p.uri})" if p.uri else "no picture" for p in row]
        names = [f"{markdown_text(p.answers[0][0])} {p.answers[0][1]:.0%}" for p in row]
        lines += ["| " + " | ".join(cells) + " |" for cells in (shown, names)]
    return lines
