"""``effnet train``: the run as it goes, and a table at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_core.cli.guard import guarded
from effnet_core.cli.options import Overrides, Processes, Recipe

if TYPE_CHECKING:
    from rich.table import Table

    from effnet_core.config.schema import RunConfig
    from effnet_core.results import TrainResult

AUTO = "auto"
"""The recipe that decides by data, machine and weights."""
NO_WEIGHTS = "none"
"""What ``--weights`` takes for random ones."""
WORST_CLASSES = 3
"""That the closing table names."""

Photos = Annotated[
    str | None,
    typer.Argument(
        help="Labelled pictures, as stage takes them (folder of class folders, archive, table, bucket), or "
        "a staged data set.",
        show_default=False,
    ),
]


@guarded
def train(
    photos: Photos = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The same, under its older name.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir",
            help="Folder of the run, which continues in it if it was cut; runs/train/NAME by default.",
        ),
    ] = None,
    recipe: Recipe = AUTO,
    quality: Annotated[
        str | None,
        typer.Option("--quality", help="fast (seconds), good or best: short for auto.quality."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option("--minutes", help="Of the whole run, at most: short for auto.minutes."),
    ] = None,
    override: Overrides = None,
    processes: Processes = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help="What to start from, as evaluate takes it, or none for random weights.",
        ),
    ] = None,
    num_classes: Annotated[
        int | None,
        typer.Option(
            min=2, help="Short for model.num_classes: a new head if the weights' differs."
        ),
    ] = None,
) -> None:
    """Train a model on labelled pictures; what is not said is decided by them and by this machine."""
    from effnet_core import api
    from effnet_core.auto.places import run_folder
    from effnet_core.cli.lines import say, show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import by_section, load_config
    from effnet_core.errors import ConfigError
    from effnet_core.reports.training import write_training_report

    short = by_section(
        {
            "runtime.world_size": processes,
            "model.weights": weights,
            "model.num_classes": num_classes,
            "auto.quality": quality,
            "auto.minutes": minutes,
        }
    )
    if weights == NO_WEIGHTS:
        short["model"]["weights"] = None
    config = load_config(recipe, override or [], options=short)
    pictures = photos or data
    if pictures is None:
        raise ConfigError("effnet train needs pictures, such as a folder of class folders")
    if photos and data:
        raise ConfigError(f"effnet train has pictures twice: {photos} and --data {data}; name one")
    _require_auto(config, quality, minutes)
    run_dir = run_dir or run_folder(config, pictures)
    with show_events(training=True):
        say(f"run folder: {run_dir}")
        result = api.train(config, pictures, run_dir)
    report = write_training_report(run_dir, result, data=pictures)
    console.print(closing_table(result, report))
    for line in next_commands(run_dir):
        say(line)


def _require_auto(config: RunConfig, quality: str | None, minutes: float | None) -> None:
    """Refuse options that only the recipe auto heeds beside another recipe."""
    from effnet_core.errors import ConfigError

    if not config.auto.enabled and (quality is not None or minutes is not None):
        raise ConfigError(
            "--quality and --minutes belong to the recipe auto; leave out --recipe, or set train.budget"
        )


def closing_table(result: TrainResult, report: Path) -> Table:
    """How good the model is, and where it and its report lie."""
    from rich.table import Table

    table = Table(show_header=False, title_justify="left", title="finished")
    found = result.evaluation
    top5 = "" if found.top5 is None else f", top-5 {found.top5:.2%}"
    if result.probe_top1 is not None:
        table.add_row("probe", f"top-1 {result.probe_top1:.2%}")
    if result.steps:
        table.add_row(
            "trained",
            f"{result.steps:,} steps, {result.images_per_s:.1f} images/s on {result.world_size} process(es)",
        )
    table.add_row(
        "finished model",
        f"top-1 {found.top1:.2%}{top5}, loss {found.loss:.4f} on {found.seen:,} images of split "
        f"{found.split}",
    )
    if worst := worst_classes(result):
        table.add_row("worst classes", worst)
    table.add_row("model", str(result.checkpoint))
    table.add_row("report", str(report))
    return table


def worst_classes(result: TrainResult) -> str:
    """The classes with the smallest share of right answers, in words; empty where all are right."""
    found = result.evaluation
    columns = zip(
        found.class_names,
        found.confusion.by_true().tolist(),
        found.confusion.right().tolist(),
        strict=False,
    )
    shares = sorted((right / seen, name, right, seen) for name, seen, right in columns if seen)
    worst = [item for item in shares[:WORST_CLASSES] if item[0] < 1]
    return ", ".join(f"{name} ({right} of {seen} right)" for _, name, right, seen in worst)


def next_commands(run_dir: Path) -> list[str]:
    """What a person may want to do next."""
    return [
        f"label a folder:  effnet predict FOLDER --weights {run_dir}",
        f"publish it:      effnet publish {run_dir}",
    ]
