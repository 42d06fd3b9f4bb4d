"""``effnet verify-family``: published weights measured one after the other, as the page's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_core.cli.guard import guarded
from effnet_core.cli.options import Overrides, Processes
from effnet_core.text import in_one_line

if TYPE_CHECKING:
    from effnet_core.results import EvalResult

TABLE_NAME = "family.md"
HEADINGS = (
    *("weights", "top-1 published", "measured", "difference", "top-5 published", "measured"),
    *("difference", "TensorFlow top-1", "images"),
)


@guarded
def verify_family(
    data: Annotated[
        str,
        typer.Option("--data", help="ImageNet: a staged data set, its folders, or its archives."),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "-w",
            help="Published weights; repeatable. MindVision's B0 to B7 by default.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "--output", help="Folder of the results and the table.")
    ] = Path("runs/family"),
    split: Annotated[str, typer.Option(help="Split to evaluate.")] = "val",
    processes: Processes = None,
    override: Overrides = None,
) -> None:
    """Evaluate published weights on ImageNet and write published and measured accuracy side by side.

    What was measured before lies in the folder and is not measured again; weights that cannot be had are
    named in the table, and the command ends with an error.
    """
    from effnet_core import api
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import by_section, load_config
    from effnet_core.data.manifest import DATASET_NAME, open_dataset
    from effnet_core.weights.catalogue import PUBLISHED

    options = by_section({"runtime.world_size": processes})
    config = load_config(None, override or [], options=options)
    names = weights or [name for name, entry in PUBLISHED.items() if entry.top1 is not None]
    with show_events():
        data_dir = Path(data)
        if not (data_dir / DATASET_NAME).is_file():
            data_dir = out / "data"
            api.stage(data, data_dir, config=config)

        def measure(name: str) -> EvalResult:
            return api.evaluate(name, data_dir, split=split, config=config)

        failed = check_family(names, out, measure, data_digest=open_dataset(data_dir).digest)
    console.print(f"{out / TABLE_NAME} is written", soft_wrap=True, markup=False)
    if failed:
        console.print(f"not measured: {', '.join(failed)}", soft_wrap=True, markup=False)
        raise typer.Exit(1)


def check_family(
    names: Sequence[str], out: Path, measure: Callable[[str], EvalResult], *, data_digest: str
) -> list[str]:
    """Measure what is not measured yet and write ``family.md``, anew after each of them.

    Args:
        names: published weights.
        out: folder of the results; one from before is taken where it is of the same weights and data.
        measure: evaluates weights.
        data_digest: of the data set.

    Returns:
        The names that could not be measured.

    Raises:
        ConfigError: a name is not of published weights.
    """
    from effnet_core.errors import ConfigError, EffnetError
    from effnet_core.events import Event, emit
    from effnet_core.results import EvalResult
    from effnet_core.system.files import sha256_of_text, write_json, write_text
    from effnet_core.text import nearest
    from effnet_core.weights.catalogue import every, published_as

    for name in names:
        if published_as(name) is None:
            raise ConfigError(
                f"weights {name!r} are not published ones{nearest(name, every())} "
                "(effnet weights list --all)"
            )
    rows: list[str] = []
    failed = []
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = out / f"{sha256_of_text(name, data_digest)[:12]}.json"
        try:
            if not file.is_file():
                write_json(file, measure(name).to_dict())
            rows.append(_row(name, EvalResult.read(file)))
        except EffnetError as cause:
            failed.append(name)
            rows.append(f"| {name} | not measured: {in_one_line(cause)} |")
            emit(Event("verify", f"{name}: {cause}"))
        write_text(out / TABLE_NAME, _table(rows))
    return failed


def _row(name: str, result: EvalResult) -> str:
    from effnet_core.cli.answers import compare_with_published
    from effnet_core.weights.catalogue import published_as

    found = {one.measure: one for one in compare_with_published(name, result)}
    measured = {"top1": result.top1, "top5": result.top5}
    cells = [name]
    for measure, value in measured.items():
        one = found.get(measure)
        cells += [
            "-" if one is None else f"{100 * one.published:.2f}",
            "-" if value is None else f"{100 * value:.2f}",
            "-" if one is None else f"{100 * one.difference:+.2f}",
        ]
    entry = published_as(name)
    reference = entry.row.reference_top1 if entry else None
    cells.append("-" if reference is None else f"{100 * reference:.1f}")
    return f"| {' | '.join([*cells, f'{result.seen:,}'])} |"


def _table(rows: Sequence[str]) -> str:
    lines = [
        "# Published accuracy, measured again",
        "",
        "In %, differences in points. A number is compared only on ImageNet's own 1,000 classes.",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---" * len(HEADINGS) + "|",
        *rows,
    ]
    return "\n".join(lines) + "\n"
