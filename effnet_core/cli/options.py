"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="SECTION.KEY=VALUE", help="A setting; repeatable."),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        help="Checkpoint, run folder, published file (.ckpt .safetensors .pth), URL, name, or of the "
        "model store: production or store:VERSION.",
    ),
]
