"""The library's commands: ``python -m effnet_core`` and, with those that need Prefect, ``effnet``.

Nothing heavy is imported before a command is chosen, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from effnet_core import __version__
from effnet_core.cli import family_check, trained, training
from effnet_core.cli import runs as several
from effnet_core.cli.bench import bench
from effnet_core.cli.guard import guarded, run
from effnet_core.cli.options import WEIGHTS_HELP, Overrides
from effnet_core.cli.quantize import quantize
from effnet_core.cli.store import app as store_commands
from effnet_core.cli.weights import app as weights_commands

app = typer.Typer(
    name="effnet",
    help="EfficientNet on MindSpore: stage data, train, evaluate, publish and label images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"effnet-flows {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command()
@guarded
def models(
    show_all: Annotated[
        bool, typer.Option("--all", help="Also variants that exist for tests.")
    ] = False,
    chart: Annotated[
        Path | None, typer.Option("--chart", help="PNG file: the published accuracies as a chart.")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option("--measured", help="Run folder whose top-1 the chart shows too; repeatable."),
    ] = None,
    architecture: Annotated[
        str, typer.Option("--architecture", help="A variant whose stages --chart draws instead.")
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/models.md.")] = False,
) -> None:
    """List the family: parameters, cost, sizes and published accuracy; or draw it."""
    from effnet_core.cli.tables import family_markdown, family_table
    from effnet_core.cli.terminal import console

    if markdown:
        typer.echo(family_markdown(), nl=False)
    elif chart is not None or measured or architecture:
        from effnet_core.cli.charts import draw_family
        from effnet_core.errors import ConfigError

        if chart is None:
            raise ConfigError("--measured and --architecture need --chart FILE.png")
        draw_family(chart, architecture=architecture, measured=measured or [])
        console.print(f"{chart} is written", soft_wrap=True, markup=False)
    else:
        console.print(family_table(show_all=show_all))


@app.command()
@guarded
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="One of them: its command, cost and settings as YAML.")
    ] = None,
) -> None:
    """List the recipes and what each one changes, or print one."""
    from effnet_core.cli.tables import recipe_table
    from effnet_core.cli.terminal import console
    from effnet_core.config.recipes import recipe_names, recipe_text
    from effnet_core.errors import ConfigError
    from effnet_core.text import nearest

    if name is None:
        console.print(recipe_table())
    else:
        if name not in recipe_names():
            raise ConfigError(
                f"recipe {name!r} is unknown{nearest(name, recipe_names())} (effnet recipes lists them)"
            )
        typer.echo(recipe_text(name), nl=False)


@app.command()
@guarded
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page in docs/.")] = False,
) -> None:
    """List every setting with its default and meaning."""
    from effnet_core.cli.tables import settings_markdown, settings_table
    from effnet_core.cli.terminal import console

    if markdown:
        typer.echo(settings_markdown(), nl=False)
    else:
        console.print(settings_table())


@app.command()
@guarded
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine: versions, devices, memory, disk, services; 1 if something is wrong."""
    import json

    from effnet_core.cli import doctor as checks
    from effnet_core.cli.terminal import console

    findings = checks.examine(context.obj or ())
    if as_json:
        typer.echo(json.dumps(checks.as_json(findings), indent=2))
    else:
        console.print(checks.as_table(findings))
    if not checks.is_well(findings):
        raise typer.Exit(1)


@app.command()
@guarded
def stage(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of class folders, archive, tar shards, .csv file, ILSVRC2012, or s3://bucket/prefix."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "--output", help="Folder of the staged data set.")],
    val_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Validation share where there are no splits.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Changes which images those are.")] = 0,
    max_rejected_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unusable files that is tolerated.")
    ] = 0.1,
    corrections: Annotated[
        Path | None,
        typer.Option(
            help="What effnet review's page saved, or a folder with such files: right labels, pictures to "
            "leave out."
        ),
    ] = None,
    override: Overrides = None,
) -> None:
    """Verify labelled images, wherever they live, and bring them into a staged data set."""
    from effnet_core import api
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import load_config

    config = load_config(None, override or [])
    with show_events():
        dataset, reused = api.stage(
            source,
            out,
            val_share=val_share,
            seed=seed,
            max_rejected_share=max_rejected_share,
            config=config,
            corrections=corrections,
        )
    counts = ", ".join(f"{count:,} {name}" for name, count in dataset.counts.items())
    console.print(
        f"{'reused' if reused else 'staged'} {out}: {dataset.num_classes} classes, {counts}"
    )
    if dataset.rejected:
        console.print(f"{dataset.rejected} files set aside, see {out / 'rejected.jsonl'}")
    console.print(f"data card: {out / 'data_card.html'}", soft_wrap=True)


@app.command()
@guarded
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="A folder, image files, a pattern in quotes, tar or zip files, Parquet files with pictures, "
            "a list of paths or addresses (.txt, .csv, .jsonl, .parquet), s3://bucket/prefix or https://..."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            help=f"{WEIGHTS_HELP} By default production of the store, else the newest finished training "
            "in runs/, else installed ImageNet weights.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "--out",
            help="Folder of predictions, or s3://bucket/prefix, which several machines may share; "
            "runs/predict/TIME by default.",
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Short for infer.top_k.")] = None,
    engine: Annotated[str | None, typer.Option(help="Short for infer.engine.")] = None,
    max_errors: Annotated[
        float | None, typer.Option(min=0, max=1, help="Short for infer.max_error_share.")
    ] = None,
    only_new: Annotated[
        bool,
        typer.Option("--only-new", help="Add what earlier runs into the output have not seen."),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show what spoke for the answers; short for infer.explain."),
    ] = False,
    keep_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Columns of a list to carry through; infer.keep_columns."
        ),
    ] = None,
    partition_by: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="class or a kept column; short for infer.partition_by."),
    ] = None,
    override: Overrides = None,
) -> None:
    """Label images; the input is never written to. One picture is also drawn with its labels."""
    from effnet_core import api
    from effnet_core.cli.answers import say_default, show_single
    from effnet_core.cli.defaults import choose_weights, own_folder
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import by_section, load_config
    from effnet_core.reports.predictions import EXPLAINED_NAME

    short = {
        "infer.top_k": top_k,
        "infer.engine": engine,
        "infer.max_error_share": max_errors,
        "infer.explain": explain or None,
        "infer.keep_columns": keep_columns and keep_columns.split(","),
        "infer.partition_by": partition_by,
    }
    config = load_config(None, override or [], options=by_section(short))
    if weights is None:
        weights, origin = choose_weights(config.storage)
        say_default("weights", origin)
    output = str(own_folder("predict")) if output is None else output.rstrip("/")
    with show_events():
        summary = api.infer(weights, inputs, output, config=config, only_new=only_new)
    if summary["labelled"] == 1:
        show_single(output, config)
    if config.infer.explain:
        console.print(f"explained: {output}/{EXPLAINED_NAME}", soft_wrap=True, markup=False)
    console.print(
        f"{summary['labelled']} of {summary['images']} images labelled, {summary['rejected']} set aside, "
        f"{summary['other_files']} other files, "
        f"{summary['images_per_s']:.1f} images/s: {output}",
        soft_wrap=True,
        markup=False,
    )


@app.command()
@guarded
def copy(
    source: Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix.")],
    target: Annotated[str, typer.Argument(help="The other of the two.")],
    override: Overrides = None,
) -> None:
    """Copy a folder of files to a bucket or back, many at once; continues where it was cut."""
    from effnet_core.cli.copy import copy as copy_files
    from effnet_core.storage.client import DEFAULT_ACCESS

    access = DEFAULT_ACCESS
    if override:
        from effnet_core.config.load import load_config

        access = load_config(None, override).storage.access
    copy_files(source, target, access)


FURTHER: tuple[Callable[..., None], ...] = (
    *(training.train, trained.evaluate, trained.publish, trained.export, quantize, bench),
    *(several.runs, several.leaderboard, several.compare, several.review),
)
for command in FURTHER:
    app.command()(command)
app.command()(family_check.verify_family)
app.add_typer(weights_commands, name="weights")
app.add_typer(store_commands, name="store")


def main() -> None:
    """Run the library's commands."""
    run(app)
