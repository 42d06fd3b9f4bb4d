"""The smallest useful settings: trains in seconds."""

from __future__ import annotations

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig

TINY = (
    "runtime.exact_resume=false",  # its warm-up compiles the graph; tests of exactness turn it on
    "model.variant=efficientnet_tiny",
    "model.weights=null",
    "model.bn_momentum=0.9",
    "data.image_size=32",
    "data.global_batch_size=8",
    "schedule.warmup_epochs=1",
    "train.epochs=2",
    "train.log_every_steps=1",
    "evaluate.per_device_batch_size=5",
)


def tiny_config(*overrides: str) -> RunConfig:
    """``TINY`` with changes."""
    return load_config(None, [*TINY, *overrides])
