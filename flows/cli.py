"""``effnet``: the library's commands and those that need Prefect.

Prefect is imported inside the commands that need it, after their server's address is known.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from effnet_core.cli.app import app
from effnet_core.cli.doctor import Finding
from effnet_core.cli.guard import guarded
from effnet_core.cli.guard import run as run_program


def _service() -> Iterable[Finding]:
    from flows.service import doctor

    return [*doctor.server(), *doctor.state_folder()]


CHECKS = (_service,)
"""What ``effnet doctor`` looks at besides the library's own checks."""


Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="SECTION.KEY=VALUE", help="A setting; repeatable."),
]


@app.command()
@guarded
def demo(
    out: Annotated[
        Path, typer.Option("--out", "--output", help="Folder of the demo's runs.")
    ] = Path("runs/demo"),
    override: Overrides = None,
) -> None:
    """Run the whole pipeline on a small real data set, from images to report."""
    from flows.demo import run_demo

    run_demo(out, override or [])


@app.command()
@guarded
def pipeline(
    photos: Annotated[
        str,
        typer.Argument(
            help="Labelled images: folder of class folders, archive, or s3://bucket/prefix."
        ),
    ],
    unlabelled: Annotated[str, typer.Argument(help="Images to label with the new model.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "--output",
            help="Folder of the run; runs/pipeline/TIME by default. A run that was cut continues in it.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Recipe or .yaml file.")
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(help="What effnet review's page saved, or a folder with such files."),
    ] = None,
    override: Overrides = None,
) -> None:
    """Everything in one go: stage, train, evaluate, publish, label and report, as flow runs."""
    from flows.shown import run_pipeline

    decided = str(corrections) if corrections else None
    run_pipeline(photos, unlabelled, out, recipe=recipe, overrides=override, corrections=decided)


@app.command()
@guarded
def dashboard(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; 4200 by default.")
    ] = None,
) -> None:
    """Start the Prefect dashboard over the runs of this project's state folder."""
    from flows.service.server import serve_dashboard

    serve_dashboard(port)


Environment = Annotated[
    str, typer.Option("--environment", "-e", help="A name in deployments/environments.")
]


Reset = Annotated[
    bool,
    typer.Option(
        "--reset", help="Undo what people changed on the dashboard, as far as it differs."
    ),
]


@app.command()
@guarded
def up(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the dashboard; 4200 by default.")
    ] = None,
    environment: Environment = "local",
    login: Annotated[
        bool | None,
        typer.Option(
            help="Whether the server wants a login; by default it does.", show_default=False
        ),
    ] = None,
    reset: Reset = False,
) -> None:
    """Start the service: dashboard, worker and all deployments; again is harmless."""
    from flows.service import lifecycle

    lifecycle.up(port=port, environment=environment, login=login, reset=reset)


@app.command()
@guarded
def down() -> None:
    """Stop the service; runs save, and continue after the next effnet up."""
    from flows.service import lifecycle

    lifecycle.down()


@app.command()
@guarded
def env() -> None:
    """Print the service's address and login for a shell: eval "$(effnet env)"."""
    from flows.service import lifecycle

    for name, value in lifecycle.client_settings().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
@guarded
def status() -> None:
    """Show whether the service is well, and what runs."""
    from flows.service import status

    status.status()


@app.command()
@guarded
def deploy(
    environment: Environment = "local",
    automations: Annotated[
        Path | None,
        typer.Option(help="Automations to bring as well: heartbeat, or a file of your own."),
    ] = None,
    reset: Reset = False,
) -> None:
    """Bring work pool, device slots and deployments of a server to what the repository says."""
    from effnet_core.cli.terminal import console
    from flows.service import deploy, lifecycle
    from flows.service.automations import bring_automations, require_usable

    api = lifecycle.server_api()
    if automations:
        require_usable(api, automations)
    folder = lifecycle.working_dir(api)
    deploy.deploy(api, environment=environment, working_dir=folder, reset=reset)
    names = bring_automations(api, automations) if automations else []
    for name in names:
        console.print(f"automation: {name}", markup=False)
    console.print(f"deployed to {api.url}")


@app.command()
@guarded
def watch(environment: Environment) -> None:
    """Try crashed runs of a server again, until Ctrl-C; effnet up does it for its own."""
    from flows.service import lifecycle, status

    status.watch(lifecycle.server_api(), environment=environment)


@app.command()
@guarded
def run(
    name: Annotated[str, typer.Argument(help="Deployment, such as train-b0 or train/train-b0.")],
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="KEY=VALUE", help="A parameter; repeatable."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the log until the run ends; 1 if it fails.")
    ] = False,
) -> None:
    """Start a run of a deployment on the server."""
    from flows.service import lifecycle, runs

    runs.start(lifecycle.server_api(), name, parameter or [], watch=watch)


@app.command()
@guarded
def schedule(
    name: Annotated[
        str,
        typer.Argument(help="Deployment, such as nightly-pipeline."),
    ],
    active: Annotated[
        bool | None, typer.Option("--on/--off", help="Switch it on or off.", show_default=False)
    ] = None,
    cron: Annotated[str | None, typer.Option(help="When, such as '0 3 * * *'.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--param", "-p", metavar="KEY=VALUE", help="A parameter of its runs; repeatable."
        ),
    ] = None,
) -> None:
    """Show a deployment's schedule, or change it: switch it on, set its time and parameters."""
    from flows.service import lifecycle, schedules

    schedules.schedule(
        lifecycle.server_api(), name, active=active, cron=cron, parameters=parameter or []
    )


def main() -> None:
    """Run the ``effnet`` command."""
    run_program(app, checks=CHECKS)


if __name__ == "__main__":
    main()
