"""The smallest useful settings: trains in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.family import variants

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


@contextmanager
def one_block() -> Iterator[None]:
    """Inside, the smallest network has one block instead of three, and compiles in half the time.

    For tests in one process that compile steps and say nothing about the network.
    """
    row = variants.variant("efficientnet_tiny")
    rows = {**variants.VARIANTS, row.name: replace(row, stages=row.stages[:1])}
    with mock.patch.object(variants, "VARIANTS", rows):
        yield
