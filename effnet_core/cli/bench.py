"""``effnet bench``: how fast this machine labels, and what a million images would take and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effnet_core.cli.guard import guarded
from effnet_core.cli.options import Overrides


@guarded
def bench(
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", help="Of the family; repeatable. By default lite0, b0 and b3."),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine", help="Repeatable; by default all that are installed but mindspore."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision", help="fp32, fp16 or bf16; repeatable; by default all there are."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="For all measurements together.")] = 120,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", help="Folder of pictures to decode; drawn 500x375 JPEGs by default."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images of the estimate.")] = 1_000_000,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of this machine an hour, for the estimate.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            help="Folder of bench.csv and bench.png; runs/bench/TIME by default.",
        ),
    ] = None,
    override: Overrides = None,
) -> None:
    """Measure how fast this machine labels: variants, engines, precisions."""
    from effnet_core.cli.defaults import own_folder
    from effnet_core.cli.tables import bench_table
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import load_config
    from effnet_core.errors import ConfigError
    from effnet_core.infer import bench as benchmark
    from effnet_core.render.bench import speed_chart
    from effnet_core.reports.bench import write_csv
    from effnet_core.system.files import make_folder

    if images is not None and not images.is_dir():
        raise ConfigError(f"--images {images} is not a folder")
    config = load_config(None, override or [])
    planned = benchmark.cases(variants or (), engine or (), precision or (), config)
    folder = make_folder(out or own_folder("bench"), what="output folder")
    console.print(f"{len(planned)} measurements in about {seconds:.0f} s", markup=False)

    def tell(speed: benchmark.Speed) -> None:
        found = speed.problem or f"{speed.images_per_s:.1f} images/s"
        console.print(f"{speed.case}: {found}", markup=False, soft_wrap=True)

    results = benchmark.measure(planned, config, seconds=seconds, pictures=images, tell=tell)
    console.print(bench_table(results, count=count, price=price))
    write_csv(folder / "bench.csv", results, count=count, price=price)
    rates = [(str(speed.case), speed.images_per_s) for speed in results if speed.images_per_s]
    (folder / "bench.png").write_bytes(speed_chart(rates))
    console.print(f"written: {folder / 'bench.csv'} and bench.png", soft_wrap=True, markup=False)
