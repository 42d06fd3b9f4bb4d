"""MindSpore as an engine, on any device. Import only in a child process."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn

from effnet_core.data.imagenet import readable
from effnet_core.data.preprocess import PixelArray, normalise
from effnet_core.infer.pipeline import Outputs
from effnet_core.model.network import EfficientNet
from effnet_core.weights.checkpoint import Checkpoint
from effnet_core.weights.load import load_network


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

    workers = 0

    def __init__(self, checkpoint: Checkpoint, *, micro_batch: int) -> None:
        """Load a checkpoint.

        Raises:
            CheckpointError: it does not hold exactly the parameters of its variant.
        """
        sidecar = checkpoint.sidecar
        self.preprocess = sidecar.preprocess
        self.class_names = readable(sidecar.class_names)
        self.micro_batch = micro_batch
        self.network = _WithFeatures(load_network(checkpoint))
        self.network.set_train(False)

    def forward(self, pixels: PixelArray) -> Outputs:
        """Answers to pixels, (N, S, S, 3) uint8.

        A short batch is filled up with zeros, because another shape would compile another graph.
        """
        count = len(pixels)
        images = normalise(pixels, self.preprocess)
        if count < self.micro_batch:
            filler = np.zeros((self.micro_batch - count, *images.shape[1:]), dtype=np.float32)
            images = np.concatenate([images, filler])
        logits, features = self.network(Tensor(images))
        return Outputs(logits.asnumpy()[:count], features.asnumpy()[:count])
