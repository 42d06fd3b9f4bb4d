"""The demo as a flow, for the deployment ``demo``: handwritten digits through the whole pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from effnet_core.data.digits import write_digits
from flows.parameters import Overrides
from flows.pipeline import pipeline_flow

RECIPE = "digits"


@flow(name="demo", flow_run_name="demo-digits", persist_result=False)
def demo_flow(out: str = "runs/demo", overrides: Overrides = None) -> dict[str, Any]:
    """Stage, train, evaluate, publish, label and report on 1,797 real handwritten digits.

    Args:
        out: Folder of all demo runs; images, staged data and model store are shared by them.
        overrides: Settings as section.key=value.
    """
    folder = Path(out).resolve()
    write_digits(folder / "digits")
    run_id = str(flow_run.id)  # the same in every start of a run, so that a retry finds its folder
    return pipeline_flow(
        source=str(folder / "digits" / "labelled"),
        folder=str(folder / "digits" / "unlabelled"),
        out=str(folder / f"run-{run_id[:8]}"),
        data=str(folder / "data"),
        recipe=RECIPE,
        overrides=[f"storage.root={folder / 'store'}", *(overrides or [])],
    )
