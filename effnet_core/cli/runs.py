"""Commands that look at several runs: list them, rank them, lay them side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_core.cli.guard import guarded
from effnet_core.cli.options import Overrides

if TYPE_CHECKING:
    from effnet_core.reports.compare import Place

AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@guarded
def runs(
    folder: Annotated[
        Path, typer.Argument(help="Folder of runs; everything below it is looked through.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List training runs, newest first: finished, failed, unfinished."""
    from rich.table import Table

    from effnet_core.cli.terminal import console
    from effnet_core.reports.runs import list_runs
    from effnet_core.text import format_share, visible

    found = list_runs(folder)
    if as_json:
        typer.echo(json.dumps([run.to_dict() for run in found]))
        return
    if not found:
        console.print(f"no training run lies below {folder}", soft_wrap=True, markup=False)
        return
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("run", "state", "began (UTC)", "variant", "epochs", "top-1", "data"):
        table.add_column(heading, overflow="fold", justify="left")
    for run in found:
        state = run.state + (f": {visible(run.reason)[:120]}" if run.reason else "")
        cells = (
            visible(str(run.folder)),
            state,
            run.began[:16].replace("T", " "),
            run.variant,
            str(run.epochs),
            format_share(run.top1, 2),
            visible(Path(run.data).name),
        )
        table.add_row(*(cell.replace("[", r"\[") for cell in cells))
    console.print(table)


@guarded
def leaderboard(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of runs; runs/ by default.", show_default=False)
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="A model store instead: folder or s3://bucket/prefix.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Short for storage.name.")] = None,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Rank the finished runs of a folder, or the versions of a store, by top-1 on the same images."""
    from effnet_core.config.load import by_section, load_config
    from effnet_core.errors import ConfigError
    from effnet_core.reports.compare import leaderboard_of_runs, leaderboard_of_store

    if folder is not None and store is not None:
        raise ConfigError("give a folder of runs or --store, not both")
    if store is None and name is None:
        places = leaderboard_of_runs(folder or Path("runs"))
    else:
        short = by_section({"storage.root": store, "storage.name": name})
        places = leaderboard_of_store(load_config(None, override or [], options=short).storage)
    if as_json:
        typer.echo(json.dumps([vars(place) for place in places]))
    else:
        _print_places(places)


def _print_places(places: list[Place]) -> None:
    from rich.table import Table

    from effnet_core.cli.terminal import console
    from effnet_core.text import format_share, visible

    if not places:
        console.print("nothing finished is here yet", markup=False)
    measured: tuple[str, str] | None = None
    table = Table(box=None)
    for number, place in enumerate(places, start=1):
        if (place.data_digest, place.split) != measured:
            if measured is not None:
                console.print(table)
                console.print()
            measured = place.data_digest, place.split
            where = f"{place.images:,} images of {place.split}, data set {place.data_digest[:12]}"
            console.print(where, soft_wrap=True, markup=False)
            table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
            for heading in ("", "top-1", "top-5", "variant", "name"):
                table.add_column(heading, overflow="fold")
        table.add_row(
            "*" if place.production else str(number),
            format_share(place.top1, 2),
            format_share(place.top5, 2),
            place.variant,
            visible(place.name).replace("[", r"\["),
        )
    if places:
        console.print(table)


@guarded
def compare(
    run: Annotated[list[Path], typer.Argument(help="Folders of finished training runs, 2 to 8.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "--out", help="HTML file; only the table is printed by default."),
    ] = None,
) -> None:
    """Lay training runs side by side: settings that differ, curves, classes, speed and size."""
    from rich.table import Table

    from effnet_core.cli.terminal import console
    from effnet_core.reports.compare import Comparison, write_comparison
    from effnet_core.reports.runs import open_runs
    from effnet_core.text import visible

    comparison = Comparison(open_runs(run))
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("")
    for one in comparison.runs:
        table.add_column(visible(one.name).replace("[", r"\["), overflow="fold", justify="right")
    for title, values in (*comparison.figures(), *comparison.settings()):
        table.add_row(title, *(visible(value).replace("[", r"\[") for value in values))
    console.print(table)
    if not comparison.same_images:
        console.print("they were evaluated on different images: accuracies are not comparable")
    for name, found in comparison.pairs():
        if found is not None:
            text = f"{name} against {comparison.runs[0].name}, image by image: {found.in_words()}"
            console.print(text, soft_wrap=True, markup=False)
    if output is not None:
        path = write_comparison(output, comparison)
        console.print(f"page: {path}", soft_wrap=True, markup=False)


@guarded
def review(
    run: Annotated[
        str,
        typer.Argument(
            help="Output of effnet predict, a folder or s3://bucket/prefix: its least certain pictures, and "
            "those unlike what the model learned from. Or a training run: the labels of its data that the "
            "model contradicts most."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "--output", help="Folder of the queue: page, CSV, pictures.")
    ],
    count: Annotated[int, typer.Option(min=1, help="Pictures at most.")] = 100,
    corrections: Annotated[
        Path | None,
        typer.Option(help="Earlier labels.csv, or a folder of them: these pictures are left out."),
    ] = None,
    override: Overrides = None,
) -> None:
    """Choose the pictures that are worth a person's minute; near copies are shown once."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import load_config
    from effnet_core.data.corrections import NO_CORRECTIONS, read_corrections
    from effnet_core.reports.review import write_queue
    from effnet_core.system.locks import sole_user

    config = load_config(None, override or [])
    with sole_user(out, what="folder of the queue"), show_events():
        decided = read_corrections(corrections) if corrections else NO_CORRECTIONS
        queue = write_queue(run, out, count=count, config=config, decided=decided)
    console.print(
        f"{queue.pictures} pictures to look at: {queue.path}", soft_wrap=True, markup=False
    )
    console.print(
        "decide with the keys that the page names, save labels.csv there, then: effnet stage SOURCE --out "
        "DATA --corrections labels.csv",
        soft_wrap=True,
        markup=False,
    )
