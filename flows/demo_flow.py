"""The demo as a flow, for the deployment ``demo``: handwritten digits through the whole pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from effnet_core.data.digits import write_digits
from effnet_core.system.locks import sole_user
from flows.logs import leave_out_tracebacks
from flows.parameters import AS_IN_RECIPE, Device, Engine, Epochs, Overrides, Processes
from flows.pipeline import pipeline_flow

RECIPE = "digits"


@flow(
    name="demo",
    flow_run_name="demo-digits",
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def demo_flow(
    out: str = "runs/demo",
    epochs: Epochs = None,
    device: Device = AS_IN_RECIPE,
    processes: Processes = None,
    engine: Engine = AS_IN_RECIPE,
    overrides: Overrides = None,
) -> dict[str, Any]:
    """Stage, train, evaluate, publish, label and report on 1,797 real handwritten digits.

    Args:
        out: Folder of all demo runs; images, staged data and model store are shared by them.
        epochs: Full passes over the training images.
        device: What MindSpore computes on.
        processes: Processes that train and evaluate together, one a device.
        engine: What labels the test images; auto is the fastest on a CPU with the same answers.
        overrides: Settings as section.key=value; they win over the fields above.
    """
    folder = Path(out).resolve()
    run_id = str(flow_run.id)  # the same in every start of a run, so that a retry finds its folder
    with sole_user(folder, what="demo folder"):
        write_digits(folder / "digits")
        return pipeline_flow(
            source=str(folder / "digits" / "labelled"),
            folder=str(folder / "digits" / "unlabelled"),
            out=str(folder / f"run-{run_id[:8]}"),
            data=str(folder / "data"),
            recipe=RECIPE,
            epochs=epochs,
            device=device,
            processes=processes,
            engine=engine,
            overrides=[f"storage.root={json.dumps(str(folder / 'store'))}", *(overrides or [])],
        )
