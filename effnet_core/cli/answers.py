"""Sentences that several commands end or begin with."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from effnet_core.cli.terminal import console
from effnet_core.config.schema import RunConfig
from effnet_core.data import imagenet
from effnet_core.results import EvalResult
from effnet_core.weights.catalogue import published_as


def say_default(what: str, value: str, *, option: str = "", quiet: bool = False) -> None:
    """Say what a command took because nobody named anything else."""
    if not quiet:
        line = f"{what}: {value} ({option or f'--{what}'} names others)"
        console.print(line, soft_wrap=True, markup=False)


def show_single(output: str, config: RunConfig) -> None:
    """The answer of a labelling of one picture, which is drawn too where the output is a folder."""
    from effnet_core.infer.places import open_output
    from effnet_core.reports.annotate import annotate_single, font_hint

    with open_output(output, config) as place:
        row = next(iter(place.rows()))
        typer.echo(str({row["class_ids"][0]: row["class_names"][0]}))
        for name, share in zip(row["class_names"], row["probs"], strict=True):
            console.print(f"{share:7.1%}  {name}", soft_wrap=True, markup=False)
        if place.remote:
            return
        copy = annotate_single(row, place.folder, config.storage)
        console.print(f"drawn on {copy}", soft_wrap=True, markup=False)
        if hint := font_hint(row):
            console.print(hint, soft_wrap=True, markup=False)


def print_evaluation(result: EvalResult) -> None:
    """The sentence that sums up an evaluation."""
    top5 = "" if result.top5 is None else f", top-5 {result.top5:.2%}"
    console.print(
        f"top-1 {result.top1:.2%}{top5}, loss {result.loss:.4f} "
        f"on {result.seen:,} images of split {result.split}"
    )
    found = result.calibration
    if found is not None:
        before = f" ({found.before.ece:.2%} before calibration)" if found.temperature != 1 else ""
        console.print(f"calibration error {found.after.ece:.2%}{before}")


@dataclass(frozen=True)
class Comparison:
    """A published accuracy beside the one that was measured, 0-1."""

    name: str
    """Of the published weights."""
    measure: str
    """``top1`` or ``top5``."""
    published: float
    measured: float

    @property
    def difference(self) -> float:
        """How much more was measured than published."""
        return self.measured - self.published


def compare_with_published(weights: str, result: EvalResult) -> list[Comparison]:
    """Measured beside published, where the weights are in the catalogue and the classes are ImageNet's."""
    entry = published_as(weights)
    if entry is None or tuple(result.class_names) != imagenet.wordnet_ids():
        return []
    pairs = (("top1", entry.top1, result.top1), ("top5", entry.top5, result.top5))
    return [
        Comparison(entry.name, measure, published, measured)
        for measure, published, measured in pairs
        if published is not None and measured is not None
    ]


def print_comparison(rows: list[Comparison]) -> None:
    """A line for each accuracy: published, measured, difference."""
    for row in rows:
        console.print(
            f"{row.measure.replace('top', 'top-')} of {row.name}: published {row.published:.2%}, measured "
            f"{row.measured:.2%}, difference {100 * row.difference:+.2f} points",
            soft_wrap=True,
            markup=False,
        )
