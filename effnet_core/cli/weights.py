"""``effnet weights``: list, import and convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effnet_core.cli.guard import guarded
from effnet_core.cli.options import Overrides

app = typer.Typer(help="Weights of other publishers: list, import, convert.", no_args_is_help=True)


@app.command("list")
@guarded
def list_weights() -> None:
    """List the published weights that --weights takes by name."""
    from effnet_core.cli.tables import weights_lines

    typer.echo("\n".join(weights_lines()))


@app.command("import")
@guarded
def import_(
    file: Annotated[
        str, typer.Argument(help="Weights: .ckpt, .safetensors or .pth file, URL or name.")
    ],
    out: Annotated[Path, typer.Option("--out", "--output", help="Checkpoint to write (.ckpt).")],
    variant: Annotated[str | None, typer.Option(help="What it must be; found by default.")] = None,
    layout: Annotated[
        str | None, typer.Option(help="Whose names; needed only where two fit.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=2, help="Keep the backbone, start a new head of N classes.")
    ] = None,
) -> None:
    """Turn weights of another publisher into a checkpoint; everything must fit."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.locks import sole_writer
    from effnet_core.weights.importing import import_weights
    from effnet_core.weights.resolve import locate

    with show_events(), sole_writer(out, what="checkpoint"):
        path, hint, published_layout = locate(file)
        result = import_weights(
            path,
            out,
            variant=variant,
            layout=layout or published_layout,
            num_classes=num_classes,
            hint=hint,
        )
    console.print(f"{result.describe()}", soft_wrap=True)
    console.print(f"wrote {out} and {out.with_suffix('.json').name}", soft_wrap=True)


@app.command()
@guarded
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Checkpoint, run folder, file, URL, name, production or store:VERSION."
        ),
    ],
    to: Annotated[str, typer.Option("--to", help="Publisher: mindvision, timm, torchvision, ...")],
    out: Annotated[
        Path, typer.Option("--out", "--output", help="File to write (.ckpt or .safetensors).")
    ],
    override: Overrides = None,
) -> None:
    """Write a checkpoint with the names that another publisher's code loads."""
    from effnet_core.api import open_weights
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import load_config
    from effnet_core.locks import sole_writer
    from effnet_core.weights.importing import convert as convert_weights

    storage = load_config(None, override or []).storage
    with show_events(), sole_writer(out, what="file"):
        result = convert_weights(open_weights(checkpoint, storage), out, to=to)
    console.print(f"wrote {result.tensors} tensors with {to}'s names to {out}", soft_wrap=True)
    if result.differences:
        console.print(f"for equal logits build the network with {'; '.join(result.differences)}")
