"""What a person means by ``--weights``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_core.config.schema import StorageConfig

if TYPE_CHECKING:
    from effnet_core.weights.checkpoint import Checkpoint


def open_weights(weights: str | Path, storage: StorageConfig) -> Checkpoint:
    """Open what a person means by ``--weights``, in every command and flow that takes it.

    A long run asks once and keeps the answer, since ``production`` may move meanwhile.

    Args:
        weights: a checkpoint, the folder of a training run, a file of another publisher, a URL, a
            published name, or ``production`` or ``store:VERSION`` of the model store.
        storage: which store, and the model's name in it.

    Raises:
        CheckpointError: it is missing, damaged or not of the family.
        DownloadFailed: it cannot be fetched.
        StoreError: there is no such version, or the store cannot be reached.
    """
    from effnet_core.model_store.versions import cached_model
    from effnet_core.weights.resolve import resolve

    return resolve(weights, store=partial(cached_model, storage))
