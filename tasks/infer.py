"""Label the images of a folder, shard by shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task

from effnet_core import checkpoint as checkpoints
from effnet_core import predictions, runs
from effnet_core.config import RunConfig
from effnet_core.predictions import Plan, Shard
from effnet_core.results import ShardResult
from effnet_core.weights.resolve import resolve
from tasks import policies
from tasks.reporting import on_dashboard

STAGE = "predict"


@task(name="plan-inference", **policies.INFER)
def plan_inference(
    config: RunConfig, checkpoint: str, folder: str, output: str, *, only_new: bool = False
) -> Plan:
    """List the input, cut it into shards and claim the output folder."""
    return runs.plan_inference(checkpoint, [folder], Path(output), config=config, only_new=only_new)


@task(name="predict-shard", task_run_name="predict-shard-{shard.index}", **policies.INFER)
def predict_shard(config: RunConfig, plan: Plan, shard: Shard, checkpoint: str) -> ShardResult:
    """Label one shard in a child process and write its part file."""
    title = f"images of shard {shard.index + 1} of {len(plan.shards)}"
    with on_dashboard(f"predict-shard-{shard.index}", STAGE, description=title):
        return runs.infer_shards(plan, [shard], checkpoint, config=config)[0]


@task(name="finish-inference", **policies.INFER)
def finish_inference(config: RunConfig, plan: Plan, checkpoint: str) -> dict[str, Any]:
    """Write totals once every shard is there; refuse when too many files could not be read."""
    sha256 = checkpoints.read_sidecar(resolve(checkpoint)).sha256
    return predictions.finish(plan, infer=config.infer, model_sha256=sha256)
