"""The command ``effnet quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effnet_core.cli.options import WEIGHTS_HELP, Overrides


def quantize(
    weights: Annotated[
        str | None,
        typer.Argument(
            help=f"{WEIGHTS_HELP} By default the newest finished training in runs/.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Staged data set of the model; by default the one that the run was trained on.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option("--max-drop", min=0, max=100, help="Points of top-1 that int8 may lose."),
    ] = 0.5,
    images: Annotated[
        int, typer.Option(min=1, help="Training images from which ranges are taken.")
    ] = 256,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a copy of the checkpoint with its int8 network; by default it goes beside "
            "the checkpoint.",
            show_default=False,
        ),
    ] = None,
    override: Overrides = None,
) -> None:
    """Make the int8 network of a model, kept only if it is as good on the whole validation split."""
    from effnet_core import api
    from effnet_core.cli.answers import say_default
    from effnet_core.cli.defaults import run_to_publish
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import load_config

    if weights is None:
        weights = str(run_to_publish())
        say_default("weights", f"the newest finished training, {weights}", option="WEIGHTS")
    with show_events():
        found = api.quantize(
            weights,
            data_dir=data,
            out=out,
            max_drop=max_drop / 100,
            images=images,
            config=load_config(None, override or []),
        )
    console.print(str(found), soft_wrap=True, markup=False)
