"""Evaluate a checkpoint: ``python -m flows.evaluate --help``."""

from __future__ import annotations

from prefect import flow

from effnet_core.config import load_config
from effnet_core.results import EvalResult
from flows.names import named
from tasks.evaluate import evaluate_checkpoint


@flow(name="evaluate", flow_run_name=named("evaluate", "split"), persist_result=False)
def evaluate_flow(
    weights: str,
    data: str,
    split: str = "val",
    work_dir: str | None = None,
    recipe: str | None = None,
    overrides: list[str] | None = None,
) -> EvalResult:
    """Accuracy of a checkpoint over every image of a split, exact on any number of processes.

    Args:
        weights: Checkpoint, folder of a training run, file of another publisher, URL or known name.
        data: Folder of the staged data set.
        split: Split to evaluate.
        work_dir: Folder for logs and result; a temporary one by default.
        recipe: Name of a recipe for processes and batch size.
        overrides: Settings as section.key=value.
    """
    config = load_config(recipe, overrides or [])
    return evaluate_checkpoint(config, weights, data, split, work_dir=work_dir)


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.evaluate:evaluate_flow")
