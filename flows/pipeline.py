"""The main job: stage, train, evaluate, publish, label, report. ``python -m flows.pipeline --help``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from effnet_core.config.schema import RunConfig
from effnet_core.model_store.publication import PublishedVersion
from effnet_core.system.files import read_json, write_json
from effnet_core.system.locks import sole_user
from effnet_core.weights.checkpoint import MODEL_NAME
from flows.batch_infer import batch_infer_flow
from flows.evaluate import evaluate_flow
from flows.logs import leave_out_tracebacks
from flows.names import last_name, tag_run, training_name, training_values
from flows.parameters import (
    AS_IN_RECIPE,
    Device,
    Engine,
    Epochs,
    FolderPath,
    Overrides,
    Processes,
    Recipe,
    VariantName,
    Version,
    own_folder,
)
from flows.publish import publish_flow
from flows.service.environments import flow_config
from flows.stage import stage_flow
from flows.train import train_flow
from tasks.report import write_report

LABELLER_NAME = "labeller.json"


@flow(
    name="pipeline",
    flow_run_name=training_name("pipeline"),
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def pipeline_flow(
    source: FolderPath,
    folder: FolderPath,
    out: str | None = None,
    data: str | None = None,
    recipe: Recipe = "auto",
    variant: VariantName = AS_IN_RECIPE,
    epochs: Epochs = None,
    device: Device = AS_IN_RECIPE,
    processes: Processes = None,
    engine: Engine = AS_IN_RECIPE,
    overrides: Overrides = None,
    version: Version = None,
    corrections: str | None = None,
) -> dict[str, Any]:
    """Stage a data set, train, evaluate, publish, label a folder and write a report.

    The folder is labelled by the model that is in production then: the new one, unless the gate refuses it.

    Args:
        source: Labelled images: folder of class folders, archive, or s3://bucket/prefix.
        folder: Folder of images to label.
        out: Folder of the run, one of its own by default; a run that was cut continues in it.
        data: Folder of the staged data set; OUT/data by default.
        recipe: Name of a recipe, or path of a YAML file.
        variant: Member of the family.
        epochs: Full passes over the training images.
        device: What MindSpore computes on.
        processes: Processes that train and evaluate together, one a device.
        engine: What labels the folder; auto is the fastest on a CPU with the same answers.
        overrides: Further settings as section.key=value; they win over the fields above.
        version: Name of the published version; made from time and digest by default.
        corrections: CSV file of effnet review's page, or a folder with such files, taken before training.
    """
    given = {
        "variant": variant,
        "epochs": epochs,
        "device": device,
        "processes": processes,
        "engine": engine,
    }
    config = flow_config(recipe, overrides, form=training_values(given))
    out = out or own_folder("pipeline")
    tag_run(config.model.variant, f"data:{last_name(source)}")
    data = data or str(Path(out) / "data")
    with sole_user(Path(out), what="folder of the pipeline"):
        return _steps(
            config, out, source, folder, data, recipe, given, overrides, version, corrections
        )


def _steps(
    config: RunConfig,
    out: str,
    source: str,
    folder: str,
    data: str,
    recipe: str,
    given: dict[str, Any],
    overrides: list[str] | None,
    version: str | None,
    corrections: str | None,
) -> dict[str, Any]:
    """One after the other, in a folder that no other run uses meanwhile; each gets its fields of the form."""
    device, processes = given["device"], given["processes"]
    run_dir, predictions = str(Path(out) / "train"), str(Path(out) / "predictions")
    seconds: dict[str, float] = {}

    with _timed(seconds, "stage"):
        stage_flow(source, data, recipe=recipe, overrides=overrides, corrections=corrections)
    with _timed(seconds, "train"):
        train_flow(
            data,
            run_dir,
            recipe,
            variant=given["variant"],
            epochs=given["epochs"],
            device=device,
            processes=processes,
            overrides=overrides,
        )
    weights = str(Path(run_dir) / MODEL_NAME)
    with _timed(seconds, "evaluate"):
        work_dir = str(Path(out) / "evaluate")
        split = config.data.eval_split
        measured = evaluate_flow(
            weights, data, split, work_dir, recipe, device, processes, overrides
        )
    with _timed(seconds, "publish"):
        published = publish_flow(run_dir, version, True, overrides, measured.path)
    labeller = _choose_labeller(Path(out), weights, published)
    with _timed(seconds, "infer"):
        batch_infer_flow(
            folder,
            labeller,
            predictions,
            engine=given["engine"],
            device=device,
            recipe=recipe,
            overrides=overrides,
        )
    context = FlowRunContext.get()
    flow_run_id = str(context.flow_run.id) if context and context.flow_run else ""
    return write_report(
        config,
        out,
        data=data,
        evaluation=measured.path,
        published=published,
        labelled_by=labeller if labeller != weights else published.version,
        seconds=seconds,
        flow_run_id=flow_run_id,
    )


def _choose_labeller(out: Path, trained: str, published: PublishedVersion) -> str:
    """The model that labels: the one in production, which is the new one unless the gate has refused it.

    A run that was cut labels on with the model that it began with, whatever is in production by then.

    Args:
        out: folder of the pipeline's run, in which the choice is kept.
        trained: checkpoint of the new model, which labels as well where nothing is in production.
        published: what became of it.
    """
    note = out / LABELLER_NAME
    before = read_json(note) if note.exists() else {}
    if before.get("published") == published.version:
        return str(before["labeller"])
    refused = not published.promoted and published.production not in ("", published.version)
    labeller = f"store:{published.production}" if refused else trained
    if refused:
        get_run_logger().warning(
            f"{published.version} is not in production ({published.reason}); the folder is labelled by "
            f"{published.production}, which is"
        )
    write_json(note, {"published": published.version, "labeller": labeller})
    return labeller


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - started, 2)


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.pipeline:pipeline_flow")
