"""ONNX Runtime on the CPU: several times faster there than a MindSpore forward.

Each core computes a few images by itself instead of all cores sharing every layer: nobody waits for
anybody, and what a layer hands to the next stays in the core's cache. On EfficientNet-B0 at 224 that
takes 11.5 ms of processor time an image, against 13 to 20 (batch of 4 to 64) for shared layers. The
answer to an image does not depend on its batch, to the last bit.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from effnet_core.data.imagenet import readable
from effnet_core.data.preprocess import PixelArray
from effnet_core.errors import ExportError
from effnet_core.infer.pipeline import Outputs
from effnet_core.weights.checkpoint import Sidecar

ERRORS_ONLY = 3
"""ONNX Runtime's level of log messages."""


class OnnxRuntimePredictor:
    """A checkpoint's engine file in ONNX Runtime."""

    def __init__(self, file: Path, sidecar: Sidecar, *, workers: int, micro_batch: int) -> None:
        """Load an engine file.

        Args:
            file: made by ``export.onnx_model`` with ``pixels`` and ``features``.
            sidecar: of the checkpoint that it was made from.
            workers: threads that call it side by side.
            micro_batch: images in a call.

        Raises:
            ExportError: the file is missing or damaged.
        """
        self.preprocess = sidecar.preprocess
        self.class_names = readable(sidecar.class_names)
        self.workers, self.micro_batch = workers, micro_batch
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as cause:
            reason = " ".join(str(cause).split())
            raise ExportError(f"engine file {file} cannot be loaded ({reason})") from cause

    def forward(self, pixels: PixelArray) -> Outputs:
        """Answers to pixels, (N, S, S, 3) uint8."""
        logits, features = self.session.run(["logits", "features"], {"pixels": pixels})
        return Outputs(logits, features)
