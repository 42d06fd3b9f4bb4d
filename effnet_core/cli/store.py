"""``effnet store``: what is published, and moving it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effnet_core.cli.guard import guarded
from effnet_core.errors import EXIT_FAILED

if TYPE_CHECKING:
    from effnet_core.config.schema import RunConfig

app = typer.Typer(
    help="The model store: list, show, fetch, promote, roll back, verify, clean.",
    no_args_is_help=True,
)

Store = Annotated[
    str | None,
    typer.Option("--store", help="Short for storage.root: folder or s3://bucket/prefix."),
]
Name = Annotated[str | None, typer.Option("--name", help="Short for storage.name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--override", "-o", metavar="SECTION.KEY=VALUE", help="A setting; repeatable."),
]
Version = Annotated[str, typer.Argument(help="A version, or production.")]


@app.command("list")
@guarded
def list_(
    store: Store = None,
    name: Name = None,
    override: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests as JSON.")] = False,
) -> None:
    """List the published versions, newest first."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.model_store.versions import list_versions

    with nullcontext() if as_json else show_events():
        versions = list_versions(_config(store, name, override).storage)
    if as_json:
        typer.echo(json.dumps(versions))
        return
    for found in versions:
        console.print(_line(found), soft_wrap=True, highlight=False, markup=False)
    console.print("* production" if versions else "nothing is published here yet", markup=False)


def _line(found: dict[str, Any]) -> str:
    """A version in the list."""
    start = f"{'*' if found['production'] else ' '} {found['version']}"
    if found["unreadable"]:
        return f"{start}  cannot be read: {found['unreadable']}"
    metrics = found["metrics"]
    return (
        f"{start}  top-1 {metrics['top1']:.2%} on {metrics['seen']:,} images of {metrics['split']}  "
        f"{found['variant']}, {found['num_classes']} classes  {found['created_at']}"
    )


@app.command()
@guarded
def show(
    version: Version = "production",
    store: Store = None,
    name: Name = None,
    override: Overrides = None,
) -> None:
    """Print a version's manifest as JSON."""
    from effnet_core.model_store.versions import resolve_version

    manifest = resolve_version(_config(store, name, override).storage, version)
    typer.echo(json.dumps(manifest, indent=2, ensure_ascii=False))


@app.command()
@guarded
def fetch(
    out: Annotated[Path, typer.Option("--out", "--output", help="Folder for the version's files.")],
    version: Version = "production",
    store: Store = None,
    name: Name = None,
    override: Overrides = None,
) -> None:
    """Copy a version to a folder, every digest verified; continues where it was cut."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.model_store.versions import fetch_model

    with show_events():
        path = fetch_model(_config(store, name, override).storage, version, out)
    console.print(f"{path}", soft_wrap=True, markup=False)


@app.command()
@guarded
def promote(
    version: Annotated[str, typer.Argument(help="A version.")],
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Past the gate; the reason is recorded.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Staged images on which it and production are compared, pair by pair."),
    ] = None,
    store: Store = None,
    name: Name = None,
    override: Overrides = None,
) -> None:
    """Make a version the production version, if the gate lets it through."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.quality.gate import promote as move

    config = _config(store, name, override)
    with show_events():
        pointer = move(version, config=config, data_dir=data, force_reason=force)
    text = f"production is {pointer['version']} ({pointer['reason']})"
    console.print(text, soft_wrap=True, markup=False)


@app.command()
@guarded
def rollback(store: Store = None, name: Name = None, override: Overrides = None) -> None:
    """Return production to the version before the last promotion."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.model_store.production import rollback as move

    with show_events():
        pointer = move(_config(store, name, override).storage)
    console.print(f"production is {pointer['version']} ({pointer['reason']})", markup=False)


@app.command()
@guarded
def verify(
    version: Annotated[str | None, typer.Argument(help="A version; all by default.")] = None,
    store: Store = None,
    name: Name = None,
    override: Overrides = None,
) -> None:
    """Read every published file and compare its digest."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.model_store.maintenance import verify as check

    with show_events():
        problems = check(_config(store, name, override).storage, version)
    for problem in problems:
        console.print(problem, soft_wrap=True, markup=False)
    if problems:
        raise SystemExit(EXIT_FAILED)
    console.print("every digest is right", markup=False)


@app.command()
@guarded
def gc(
    older_than_h: Annotated[
        float, typer.Option("--older-than-h", min=0, help="Hours; younger uploads may be at work.")
    ] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    store: Store = None,
    name: Name = None,
    override: Overrides = None,
) -> None:
    """Delete what killed publishers left; versions are never touched."""
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.model_store.maintenance import collect_garbage

    storage = _config(store, name, override).storage
    with show_events():
        found = collect_garbage(storage, older_than_s=older_than_h * 3600, dry_run=dry_run)
    verb = "would be deleted" if dry_run else "deleted"
    console.print(
        f"{len(found.versions)} unfinished version(s) and {found.rests} other rest(s) {verb}",
        markup=False,
    )


def _config(store: str | None, name: str | None, overrides: list[str] | None) -> RunConfig:
    """Settings; the short options come last and win."""
    from effnet_core.config.load import load_config

    short = {"storage.root": store, "storage.name": name}
    extra = [f"{key}={value}" for key, value in short.items() if value]
    return load_config(None, [*(overrides or []), *extra])
