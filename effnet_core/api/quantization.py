"""Make the int8 network of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effnet_core.api.opening import open_weights
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError, DataError
from effnet_core.jobs.job import TrainJob, read_job
from effnet_core.system.locks import sole_user

if TYPE_CHECKING:
    from effnet_core.weights.quantized import Quantized


def quantize(
    weights: str | Path,
    *,
    data_dir: Path | None = None,
    out: Path | None = None,
    max_drop: float = 0.005,
    images: int = 256,
    config: RunConfig | None = None,
) -> Quantized:
    """Make the int8 network of a model, kept only if it loses little enough on the whole validation split.

    Args:
        weights: as ``open_weights`` takes them.
        data_dir: staged data set with the model's classes; the one of the run by default.
        out: folder for a copy of the checkpoint with its int8 network; else it goes beside the checkpoint.
        max_drop: share of top-1 that may be lost.
        images: training images from which the ranges of activations are taken.
        config: processes and threads.

    Raises:
        QuantizationRefused: it loses more; nothing was kept.
        EffnetError: as ``open_weights``, the data set and the launcher.
    """
    from effnet_core.infer.quantize import copy_checkpoint
    from effnet_core.infer.quantize import quantize as quantize_model
    from effnet_core.storage.cache import cache_path

    config = config or RunConfig()
    checkpoint = open_weights(weights, config.storage)
    if data_dir is None:
        try:
            job = read_job(checkpoint.path.parent)
        except DataError as cause:
            raise ConfigError(
                f"{checkpoint.path} does not lie in the folder of a training run; name the staged data set "
                "that it was trained on with --data"
            ) from cause
        data_dir = job.data_dir if isinstance(job, TrainJob) else checkpoint.path.parent
    if out is None and cache_path("") in checkpoint.path.parents:
        raise ConfigError(
            f"{checkpoint.path} lies in the cache, whose files do not change; give a folder for a copy with "
            "its int8 network (--out)"
        )
    with sole_user(out or checkpoint.path.parent, what="folder of the model"):
        if out is not None:
            checkpoint = copy_checkpoint(checkpoint, out)
        return quantize_model(checkpoint, data_dir, config=config, max_drop=max_drop, images=images)
