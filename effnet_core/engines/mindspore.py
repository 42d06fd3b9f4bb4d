"""Predictors: the engines that turn images into logits. Import only in a child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from effnet_core import checkpoint as checkpoints
from effnet_core.model.network import create_model

FloatArray = NDArray[np.float32]


class MindSporePredictor:
    """The network in MindSpore, compiled once for one batch size."""

    def __init__(self, checkpoint: Path, *, batch_size: int) -> None:
        """Load a checkpoint.

        Raises:
            CheckpointError: it is missing, damaged or not what its sidecar says.
        """
        sidecar = checkpoints.read_sidecar(checkpoint)
        self.preprocess = sidecar.preprocess
        self.class_names = sidecar.class_names
        self.batch_size = batch_size
        self.network = create_model(
            sidecar.variant,
            num_classes=sidecar.num_classes,
            bn_momentum=sidecar.bn_momentum,
            bn_eps=sidecar.bn_eps,
        )
        checkpoints.load(checkpoint, self.network.get_parameters())
        self.network.set_train(False)

    def logits(self, images: FloatArray) -> FloatArray:
        """Map (N, 3, S, S) to (N, num_classes); N is at most the batch size.

        A short batch is filled up with zeros, because another shape would compile another graph.
        """
        count = len(images)
        if count < self.batch_size:
            filler = np.zeros((self.batch_size - count, *images.shape[1:]), dtype=np.float32)
            images = np.concatenate([images, filler])
        result: FloatArray = self.network(Tensor(images)).asnumpy()
        return result[:count]
