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
def list_weights(
    show_all: Annotated[
        bool, typer.Option("--all", help="Also those of timm, torchvision and lukemelas.")
    ] = False,
) -> None:
    """List the published weights that --weights takes by name, with accuracy and licence."""
    from effnet_core.cli.tables import weights_lines

    typer.echo("\n".join(weights_lines(show_all=show_all)))


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
    image_size: Annotated[int | None, typer.Option(help="Side of the input, px.")] = None,
    crop_pct: Annotated[
        float | None, typer.Option(help="Share of the resized side that the centre crop keeps.")
    ] = None,
    interpolation: Annotated[str | None, typer.Option(help="bicubic or bilinear.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of R, G, B in 0-1 units: 0.5, or 0.485,0.456,0.406.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Deviation, likewise.")] = None,
) -> None:
    """Turn weights of another publisher into a checkpoint; everything must fit.

    How images are prepared is read from config.json beside the file, or known by the file's name; the
    options from --image-size on say it where that is wrong or missing.
    """
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.system.locks import sole_writer
    from effnet_core.weights.importing import import_weights
    from effnet_core.weights.resolve import locate

    given = {
        "image_size": image_size,
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "mean": _colours("--mean", mean),
        "std": _colours("--std", std),
    }
    with show_events(), sole_writer(out, what="checkpoint"):
        path, hint, published_layout = locate(file)
        result = import_weights(
            path,
            out,
            variant=variant,
            layout=layout or published_layout,
            num_classes=num_classes,
            hint=hint,
            preprocess={key: value for key, value in given.items() if value is not None},
        )
    console.print(f"{result.describe()}", soft_wrap=True)
    console.print(f"wrote {out} and {out.with_suffix('.json').name}", soft_wrap=True)


def _colours(option: str, text: str | None) -> tuple[float, ...] | None:
    """Three numbers with commas between them; one stands for all three."""
    from effnet_core.errors import ConfigError

    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise ConfigError(
            f"{option} {text} must be one number, or three with commas between them, such as "
            "0.485,0.456,0.406"
        )
    return values * 3 if len(values) == 1 else values


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
    from effnet_core.system.locks import sole_writer
    from effnet_core.weights.importing import convert as convert_weights

    storage = load_config(None, override or []).storage
    with show_events(), sole_writer(out, what="file"):
        result = convert_weights(open_weights(checkpoint, storage), out, to=to)
    console.print(f"wrote {result.tensors} tensors with {to}'s names to {out}", soft_wrap=True)
    if result.differences:
        console.print(f"for equal logits build the network with {'; '.join(result.differences)}")
