"""``effnet``: the library's commands and those that need Prefect.

Prefect is imported inside the commands that need it, after their server's address is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effnet_core.cli import app
from effnet_core.commands import guarded

Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="SECTION.KEY=VALUE", help="A setting; repeatable."),
]


@app.command()
@guarded
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo's runs.")] = Path("runs/demo"),
    override: Overrides = None,
) -> None:
    """Run the whole pipeline on a small real data set, from images to report."""
    from flows.demo import run_demo

    run_demo(out, override or [])


@app.command()
@guarded
def dashboard(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; 4200 by default.")
    ] = None,
) -> None:
    """Start the Prefect dashboard over the runs of this project's state folder."""
    from flows.server import serve_dashboard

    serve_dashboard(port)


def main() -> None:
    """Run the ``effnet`` command."""
    app(prog_name="effnet")
