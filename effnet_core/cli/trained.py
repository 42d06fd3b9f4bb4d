"""Commands on what was trained: measure it, publish it, write it in another format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_core.cli.guard import guarded
from effnet_core.cli.options import Overrides, Processes, Recipe, TrainedWeights

if TYPE_CHECKING:
    from effnet_core.config.schema import StorageConfig
    from effnet_core.results import EvalResult


def _newest(storage: StorageConfig, *, quiet: bool = False) -> str:
    """The weights where none are named; says which."""
    from effnet_core.cli.answers import say_default
    from effnet_core.cli.defaults import choose_trained

    weights, origin = choose_trained(storage)
    say_default("weights", origin, quiet=quiet)
    return weights


@guarded
def evaluate(
    weights: TrainedWeights = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder of a staged data set; by default the one that the run learned from.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to evaluate; data.eval_split (val) by default.")
    ] = None,
    recipe: Recipe = None,
    override: Overrides = None,
    processes: Processes = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--out",
            help="Folder for report.html, figures by class, mistakes, predictions.",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with lines 'data,model': the model's class for each of the data."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole result as JSON.")
    ] = False,
) -> None:
    """Measure a checkpoint on a split, exact to the last image.

    Published weights on ImageNet's classes are compared with their published accuracy. A recipe gives
    settings such as evaluate.per_device_batch_size; how images are prepared comes with the weights.
    """
    import json

    from effnet_core import api
    from effnet_core.cli.answers import (
        compare_with_published,
        print_comparison,
        print_evaluation,
        say_default,
    )
    from effnet_core.cli.defaults import data_of
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import by_section, load_config
    from effnet_core.reports.evaluation import report_evaluation

    options = by_section({"runtime.world_size": processes})
    config = load_config(recipe, override or [], options=options)
    if recipe is not None:  # the sidecar's size, not the recipe's, which is for training
        size = load_config(None, override or []).data.image_size
        config = config.model_copy(
            update={"data": config.data.model_copy(update={"image_size": size})}
        )
    weights = weights or _newest(config.storage, quiet=as_json)
    if data is None:
        data = data_of(weights)
        say_default("data", str(data), quiet=as_json)
    with show_events():
        result = api.evaluate(
            weights, data, split=split, config=config, work_dir=output, classes=classes
        )
        report = None if output is None else report_evaluation(output, config.storage)
    compared = compare_with_published(weights, result)
    if as_json:
        published = {row.measure: row.published for row in compared}
        typer.echo(
            json.dumps({**result.to_dict(), **({"published": published} if compared else {})})
        )
        return
    print_evaluation(result)
    print_comparison(compared)
    if report is not None:
        console.print(f"report: {report.path}", soft_wrap=True, markup=False)


@guarded
def export(
    weights: TrainedWeights = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "--output", help="File to write; runs/export/TIME/model.FORMAT by default."
        ),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="onnx, mindir or safetensors.")] = "onnx",
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="A picture to compare on, besides others; repeatable."),
    ] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Pooled features as a second output (onnx).")
    ] = False,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            help="Side of the input, px; that of the training's evaluation by default.",
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Take images of any height and width (onnx).")
    ] = False,
    override: Overrides = None,
) -> None:
    """Write a model in another format and compare it with MindSpore."""
    from effnet_core import api
    from effnet_core.cli.defaults import own_folder
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import load_config
    from effnet_core.export.export import export as export_model

    config = load_config(None, override or [])
    weights = weights or _newest(config.storage)
    out = own_folder("export") / f"model.{format}" if out is None else out
    with show_events():
        agreement = export_model(
            api.open_weights(weights, config.storage),
            out,
            format=format,
            pictures=image or (),
            features=features,
            image_size=image_size,
            dynamic=dynamic,
            config=config,
        )
    console.print(f"{out}: {agreement}", soft_wrap=True)


@guarded
def publish(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a finished training run; by default the newest in runs/.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(help="Short for storage.root.")] = None,
    name: Annotated[str | None, typer.Option(help="Short for storage.name.")] = None,
    version: Annotated[str | None, typer.Option(help="Version; made from time and digest.")] = None,
    promote: Annotated[bool, typer.Option(help="Move 'production' if good enough.")] = True,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data set of the evaluation, if it was moved: production is measured on it."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="hf-hub:OWNER/NAME: a repository of the Hugging Face hub instead of the store.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --to: a new repository is its owner's alone.")
    ] = False,
    override: Overrides = None,
) -> None:
    """Put a run's model into the store as an immutable version, or onto the Hugging Face hub."""
    from effnet_core import api
    from effnet_core.cli.answers import say_default
    from effnet_core.cli.defaults import run_to_publish
    from effnet_core.cli.lines import show_events
    from effnet_core.cli.terminal import console
    from effnet_core.config.load import CONFIG_NAME, by_section, load_config
    from effnet_core.quality.gate import publish as publish_run

    if run_dir is None:
        run_dir = run_to_publish()
        say_default("run", f"the newest finished training, {run_dir}", option="RUN_DIR")
    trained = api.training_result(run_dir)
    short = by_section({"storage.root": store or None, "storage.name": name or None})
    config = load_config(run_dir / CONFIG_NAME, override or [], options=short)
    if to is not None:
        with show_events():
            commit = _publish_to_hub(run_dir, to, trained.evaluation, version, private=private)
        console.print(f"{to}: {commit}", soft_wrap=True, markup=False)
        return
    with show_events():
        published = publish_run(
            run_dir, config=config, data_dir=data, version=version, promote=promote
        )
    state = "is production" if published.promoted else "not promoted"
    why = published.gate or published.reason
    console.print(f"{published.name} {published.version}: {published.uri}", soft_wrap=True)
    console.print(f"{state} ({why})", soft_wrap=True, markup=False)


def _publish_to_hub(
    run_dir: Path, to: str, evaluation: EvalResult, version: str | None, *, private: bool
) -> str:
    from effnet_core.export.export import export as export_model
    from effnet_core.jobs.job import METRICS_NAME
    from effnet_core.model_store.hub_repository import publish_to_hub
    from effnet_core.system.files import read_jsonl
    from effnet_core.system.locks import scratch_folder
    from effnet_core.weights.checkpoint import MODEL_NAME, open_checkpoint
    from effnet_core.weights.hub import HubAddress

    address = HubAddress.parse(to)
    checkpoint = open_checkpoint(run_dir / MODEL_NAME)
    metrics = run_dir / METRICS_NAME
    with scratch_folder("hub") as folder:
        return publish_to_hub(
            checkpoint,
            address,
            folder,
            evaluation=evaluation,
            metrics=read_jsonl(metrics) if metrics.is_file() else [],
            export_onnx=lambda path: export_model(checkpoint, path, format="onnx"),
            version=version or checkpoint.sha256[:12],
            private=private,
        )
