"""MindSpore as an engine, on any device. Import only in a child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from effnet_core import checkpoint as checkpoints
from effnet_core.checkpoint import Sidecar
from effnet_core.data.preprocess import PixelArray, normalise
from effnet_core.imagenet import readable
from effnet_core.model.network import EfficientNet, create_model
from effnet_core.predict import Outputs


def load_network(
    checkpoint: Path, sidecar: Sidecar, *, library: Path | None = None
) -> EfficientNet:
    """The network of a checkpoint, for inference.

    Args:
        checkpoint: its bytes were checked by ``read_sidecar`` before.
        sidecar: what belongs to it.
        library: of own operators; not for a network that is exported.

    Raises:
        CheckpointError: the checkpoint does not hold exactly the network's parameters.
    """
    network = create_model(
        sidecar.variant,
        num_classes=sidecar.num_classes,
        bn_momentum=sidecar.bn_momentum,
        bn_eps=sidecar.bn_eps,
        padding=sidecar.padding,
        library=library,
    )
    checkpoints.load(checkpoint, network.get_parameters())
    network.set_train(False)
    return network


class _WithFeatures(nn.Cell):
    """A network that also gives what its classifier sees."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(images, None)
        return self.network.classifier(features), features


class MindSporePredictor:
    """The network in MindSpore, compiled once for one batch size; it uses all cores by itself."""

    lanes = 0

    def __init__(self, checkpoint: Path, *, piece: int) -> None:
        """Load a checkpoint.

        Raises:
            CheckpointError: it is missing, damaged or not what its sidecar says.
        """
        sidecar = checkpoints.read_sidecar(checkpoint)
        self.preprocess = sidecar.preprocess
        self.class_names = readable(sidecar.class_names)
        self.piece = piece
        self.network = _WithFeatures(load_network(checkpoint, sidecar))
        self.network.set_train(False)

    def forward(self, pixels: PixelArray) -> Outputs:
        """Answers to squares, (N, S, S, 3) uint8.

        A short batch is filled up with zeros, because another shape would compile another graph.
        """
        count = len(pixels)
        images = normalise(pixels, self.preprocess)
        if count < self.piece:
            filler = np.zeros((self.piece - count, *images.shape[1:]), dtype=np.float32)
            images = np.concatenate([images, filler])
        logits, features = self.network(Tensor(images))
        return Outputs(logits.asnumpy()[:count], features.asnumpy()[:count])
