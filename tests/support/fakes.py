"""An engine without a network, and jobs for engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.infer.pipeline import Outputs
from effnet_core.infer.plan import InferencePlan
from effnet_core.jobs.job import PredictJob, Shard
from effnet_core.weights.checkpoint import Checkpoint

SPEC = PreprocessSpec(32, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class BrightnessPredictor:
    """Sure of ``red``, ``green`` or ``blue``, whichever channel of the image is brightest."""

    preprocess = SPEC
    class_names = ("red", "green", "blue")

    def __init__(self, *, micro_batch: int = 4, workers: int = 1) -> None:
        self.micro_batch, self.workers = micro_batch, workers
        self.batches: list[tuple[int, ...]] = []

    def forward(self, pixels: np.ndarray) -> Outputs:
        """Twentieths of the mean of each channel; the features are the means themselves."""
        assert pixels.dtype == np.uint8
        self.batches.append(pixels.shape)
        means = pixels.mean(axis=(1, 2), dtype=np.float32)
        return Outputs(means / 20, means)


def predict_job(planned: InferencePlan, *, allowed_errors: int = 0) -> PredictJob:
    """All shards of a plan, for a predictor that is there already."""
    return PredictJob(
        Path("none.ckpt"),
        "m",
        engine="any",
        engine_file=None,
        output=planned.output,
        input_root=planned.root,
        shards=planned.shards,
        allowed_errors=allowed_errors,
        members=planned.members,
        columns=planned.columns,
        remote=planned.remote,
        list_key=planned.list_key,
    )


def engine_job(
    checkpoint: Checkpoint, engine: str, file: Path | None, *, images: int
) -> PredictJob:
    """One shard of so many images, for an engine to be loaded."""
    return PredictJob(
        checkpoint.path,
        checkpoint.sha256,
        engine=engine,
        engine_file=file,
        output=Path("out"),
        input_root="in",
        shards=(Shard(0, 0, images, "part", checkpoint.sha256),),
        allowed_errors=0,
    )
