"""Label a folder of images: ``python -m flows.batch_infer --help``."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.environments import flow_config
from flows.names import named
from tasks.infer import finish_inference, plan_inference, predict_shard


@flow(
    name="batch-infer",
    flow_run_name=named("batch-infer", "folder"),
    persist_result=False,
)
def batch_infer_flow(
    folder: str,
    weights: str,
    output: str,
    recipe: str | None = None,
    overrides: list[str] | None = None,
) -> dict[str, Any]:
    """Label every image of a folder, exactly once; a run that was cut goes on where it stopped.

    Args:
        folder: Folder of images, searched recursively; never written to.
        weights: Checkpoint, folder of a training run, file of another publisher, URL or known name.
        output: Folder of predictions, errors and summary.
        recipe: Name of a recipe.
        overrides: Settings as section.key=value, such as infer.top_k=3.
    """
    config = flow_config(recipe, overrides)
    plan = plan_inference(config, weights, folder, output)
    for shard in plan.missing():
        predict_shard(config, plan, shard, weights)
    return finish_inference(config, plan, weights)


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.batch_infer:batch_infer_flow")
