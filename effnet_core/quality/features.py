"""A model's answers and pooled features for staged images, computed by the engine of a labelling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Split
from effnet_core.infer import engines, plan
from effnet_core.infer.inputs import InputList
from effnet_core.infer.parts import read_parts
from effnet_core.jobs.job import PredictJob
from effnet_core.jobs.launch import run_job
from effnet_core.weights.checkpoint import Checkpoint


def label_splits(
    checkpoint: Checkpoint, splits: Sequence[Split], work: Path, *, config: RunConfig
) -> list[dict[str, Any]]:
    """Rows of predictions with features, in the order of the splits; a call that was cut continues.

    Args:
        checkpoint: the model.
        splits: of one staged data set.
        work: folder for parts and logs.
        config: engine and threads.

    Raises:
        EffnetError: as the engine and the launcher.
    """
    infer = config.infer.model_copy(
        update={"features": True, "max_error_share": 0.0, "format": "parquet", "explain": False}
    )
    alone = {"world_size": 1, "hosts": (), "host_index": None}
    runtime = config.runtime.model_copy(update=alone)
    config = config.model_copy(update={"infer": infer, "runtime": runtime})
    listed = InputList(
        str(splits[0].root.resolve()),
        tuple(path for split in splits for path in split.paths),
        tuple(f"{mark:x}" for split in splits for mark in split.marks.tolist()),
    )
    planned = plan.plan(listed, work, model_sha256=checkpoint.sha256, infer=infer)
    if missing := planned.missing():
        engine, file = engines.prepare(checkpoint, config)
        job = PredictJob(
            checkpoint.path.resolve(),
            checkpoint.sha256,
            engine=engine,
            engine_file=file,
            output=work.resolve(),
            input_root=planned.root,
            shards=tuple(missing),
            allowed_errors=0,
        )
        run_job(job, config, work / "jobs" / "features")
    return read_parts(work)
