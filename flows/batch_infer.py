"""Label images: ``python -m flows.batch_infer --help``."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError, DataError
from effnet_core.infer.output import Tally
from effnet_core.infer.places import open_output
from effnet_core.results import ShardCounts
from effnet_core.system.machine import available_cores
from flows.logs import leave_out_tracebacks
from flows.names import named
from flows.parameters import (
    AS_IN_RECIPE,
    Column,
    Columns,
    DaskAddress,
    Device,
    Engine,
    FolderPath,
    Overrides,
    Recipe,
    Runner,
    ShardImages,
    TopK,
    Workers,
    form_values,
    own_folder,
)
from flows.service.environments import flow_config
from tasks.credentials import credentials_of
from tasks.infer import Pace, find_model, finish_inference, plan_inference, predict_shard
from tasks.slots import device_slot

SHARDS_AHEAD = 1000
"""Shards that wait for a worker: enough for any cluster, and few enough for this process's memory."""


@flow(
    name="label-shards",
    flow_run_name=named("label", "output"),
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def label_shards(config: RunConfig, output: str, weights: str) -> None:
    """Label every shard that is missing, each in a task run of its own, retried by itself.

    Args:
        config: Settings of inference and storage.
        output: Folder of a planned inference; the plan is read from there, however long it is.
        weights: Checkpoint.
    """
    with open_output(output, config) as place:
        plan = place.read_plan()
        tally = Tally.of(plan, config.infer)
        try:
            tally.check()
        except DataError:
            place.put_results()
            raise
    waiting = iter(plan.missing())
    header = plan.header()
    pace = Pace(plan)

    def submit(most: int) -> list[PrefectFuture[ShardCounts]]:
        shards = itertools.islice(waiting, most)
        return [
            predict_shard.submit(config, header, shard, weights, tally.left) for shard in shards
        ]

    futures = submit(SHARDS_AHEAD)
    while futures:
        later: list[PrefectFuture[ShardCounts]] = []
        for future in as_completed(futures):
            counts = future.result()
            tally.add(counts)
            pace.add(counts)
            later += submit(1)
        futures = later


@flow(
    name="batch-infer",
    flow_run_name=named("batch-infer", "folder"),
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def batch_infer_flow(
    folder: FolderPath,
    weights: FolderPath = "production",
    output: FolderPath | None = None,
    only_new: bool = False,
    top_k: TopK = None,
    engine: Engine = AS_IN_RECIPE,
    device: Device = AS_IN_RECIPE,
    shard_images: ShardImages = None,
    keep_columns: Columns = None,
    partition_by: Column = None,
    runner: Runner = "threads",
    workers: Workers = 1,
    dask_address: DaskAddress = None,
    recipe: Recipe | None = None,
    overrides: Overrides = None,
) -> dict[str, Any]:
    """Label every image of a folder, exactly once; a run that was cut continues where it stopped.

    Args:
        folder: Folder of images, image file, pattern, tar, zip, Parquet with pictures, list, s3:// or https://.
        weights: production, store:VERSION, checkpoint, folder of a training run, published file, URL or name.
        output: Folder or s3://bucket/prefix of predictions and summary; one of the run's own by default.
        only_new: Add what earlier runs into the output have not seen.
        top_k: Classes kept for each image, best first; 5, unless the recipe says otherwise.
        engine: What computes; auto is the fastest on a CPU with the same answers. openvino is CPU only too.
        device: What the engine computes on.
        shard_images: Images in a shard: one part file, one task that is tried again; 4096 as a rule.
        keep_columns: Columns of a list or of a table with pictures that answers carry too.
        partition_by: Parts in a folder for each value of it: class, the best answer, or a kept column.
        runner: threads of this process, or dask: worker processes, here or on other machines.
        workers: Shards that are labelled at the same time; they share the cores.
        dask_address: Scheduler of a Dask cluster that is running already, such as tcp://host:8786.
        recipe: Name of a recipe, or path of a YAML file.
        overrides: Settings as section.key=value, such as infer.top_k=3; they win over the fields above.

    Returns:
        Totals, and the address of ``summary.json``, which has the rest.
    """
    form = {
        "infer.top_k": top_k,
        "infer.engine": engine,
        "infer.shard_images": shard_images,
        "infer.keep_columns": keep_columns,
        "infer.partition_by": partition_by,
        "runtime.device": device,
    }
    config = flow_config(recipe, overrides, form=form_values(form))
    chosen = task_runner(runner, workers, dask_address)
    if not config.infer.engine_threads and dask_address is None:
        share = {"engine_threads": max(1, len(available_cores()) // workers)}
        config = config.model_copy(update={"infer": config.infer.model_copy(update=share)})
    checkpoint = find_model(config, weights)
    output = output or own_folder("batch-infer")
    on_cpu = config.runtime.device == "CPU"  # where it may run beside a training
    with (
        credentials_of(config.storage),
        open_output(output, config) as place,
        place.used(),
    ):
        planned = plan_inference(config, checkpoint, folder, output, only_new=only_new)
        place.say_plan(planned.etag)
        if planned.missing:
            with nullcontext() if on_cpu else device_slot(f"labelling {folder}", devices=workers):
                label_shards.with_options(task_runner=chosen)(config, output, str(checkpoint.path))
        return finish_inference(config, output, checkpoint, weights)


def task_runner(runner: Runner, workers: int, dask_address: str | None) -> TaskRunner[Any]:
    """What runs the shards.

    Raises:
        ConfigError: the settings do not go together, or Dask is not installed.
    """
    if runner == "threads":
        if dask_address is not None:
            raise ConfigError(f"dask_address={dask_address} goes with runner=dask, not threads")
        return ThreadPoolTaskRunner(max_workers=workers)
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as cause:
        raise ConfigError(
            "runner=dask needs the package prefect-dask, which is not installed; "
            "pip install 'effnet-flows[dask]', or use runner=threads"
        ) from cause
    if dask_address is not None:
        return DaskTaskRunner(address=dask_address)
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=local)


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.batch_infer:batch_infer_flow")
