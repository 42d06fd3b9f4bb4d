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
    "train.probe=none",
    "model.bn_momentum=0.9",
    "data.image_size=32",
    "data.global_batch_size=8",
    "schedule.warmup_epochs=1",
    "train.epochs=2",
    "train.log_every_steps=1",
    "evaluate.per_device_batch_size=5",
)
ONE_BLOCK = "efficientnet_tiny_one"
SMALL = (*TINY, f"model.variant={ONE_BLOCK}")
"""One block instead of three, which compiles in little more than half the time: for jobs that are about
processes and files, not about the network."""


def tiny_config(*overrides: str) -> RunConfig:
    """``TINY`` with changes."""
    return load_config(None, [*TINY, *overrides])


def small_config(*overrides: str) -> RunConfig:
    """``SMALL`` with changes."""
    return load_config(None, [*SMALL, *overrides])


@contextmanager
def one_block() -> Iterator[None]:
    """Inside, the smallest network has one block instead of three, and compiles in half the time.

    For tests in one process that compile steps and say nothing about the network.
    """
    name = "efficientnet_tiny"
    rows = {**variants.VARIANTS, name: replace(variants.variant(ONE_BLOCK), name=name)}
    with mock.patch.object(variants, "VARIANTS", rows):
        yield
