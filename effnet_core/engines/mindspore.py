"""MindSpore as an engine, on any device. Import only in a child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from effnet_core import checkpoint as checkpoints
from effnet_core.checkpoint import Sidecar
from effnet_core.imagenet import readable
from effnet_core.model.network import EfficientNet, create_model

FloatArray = NDArray[np.float32]


def load_network(checkpoint: Path, sidecar: Sidecar) -> EfficientNet:
    """The network of a checkpoint, for inference.

    Args:
        checkpoint: its bytes were checked by ``read_sidecar`` before.
        sidecar: what belongs to it.

    Raises:
        CheckpointError: the checkpoint does not hold exactly the network's parameters.
    """
    network = create_model(
        sidecar.variant,
        num_classes=sidecar.num_classes,
        bn_momentum=sidecar.bn_momentum,
        bn_eps=sidecar.bn_eps,
        padding=sidecar.padding,
    )
    checkpoints.load(checkpoint, network.get_parameters())
    network.set_train(False)
    return network


class MindSporePredictor:
    """The network in MindSpore, compiled once for one batch size."""

    def __init__(self, checkpoint: Path, *, batch_size: int) -> None:
        """Load a checkpoint.

        Raises:
            CheckpointError: it is missing, damaged or not what its sidecar says.
        """
        sidecar = checkpoints.read_sidecar(checkpoint)
        self.preprocess = sidecar.preprocess
        self.class_names = readable(sidecar.class_names)
        self.batch_size = batch_size
        self.network = load_network(checkpoint, sidecar)

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
