"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="SECTION.KEY=VALUE", help="A setting; repeatable."),
]
WEIGHTS_HELP = (
    "Checkpoint, run folder, published file (.ckpt .safetensors .pth), URL, name, hf-hub:OWNER/NAME, or of "
    "the model store: production or store:VERSION."
)
TrainedWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        help=f"{WEIGHTS_HELP} By default the newest finished training in runs/, else production.",
    ),
]
"""Of commands on what was trained here."""
Processes = Annotated[
    int | None, typer.Option("--processes", "-n", min=1, help="Short for runtime.world_size.")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", help="One of 'effnet recipes', or a .yaml file.", show_default=False
    ),
]
