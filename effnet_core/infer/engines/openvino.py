"""OpenVINO on the CPU, in 32 or in 16 bits where the processor has them; see docs/adr/0010 and 0023."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino
from openvino import properties

from effnet_core.data.imagenet import readable
from effnet_core.data.preprocess import PixelArray
from effnet_core.errors import ConfigError, ExportError
from effnet_core.infer.pipeline import Outputs
from effnet_core.weights.checkpoint import Sidecar

Precision = Literal["fp32", "fp16", "bf16"]
CAPABILITIES = "OPTIMIZATION_CAPABILITIES"
"""What OpenVINO calls a processor's abilities."""
NEEDED = {
    "bf16": ("BF16", "AVX512_BF16, AMX or SVE"),
    "fp16": ("FP16", "AVX512_FP16 or NEON's FP16"),
}
"""What it must have for a precision: OpenVINO's name, and instructions."""
TYPES = {"fp32": openvino.Type.f32, "bf16": openvino.Type.bf16, "fp16": openvino.Type.f16}


class OpenVinoPredictor:
    """A checkpoint's engine file in OpenVINO, one stream a worker, compiled for one micro-batch size."""

    def __init__(
        self,
        file: Path,
        sidecar: Sidecar,
        *,
        workers: int,
        micro_batch: int,
        precision: Precision = "fp32",
    ) -> None:
        """Load and compile an engine file.

        Args:
            file: made by ``export.onnx_model`` with ``pixels`` and ``features``.
            sidecar: of the checkpoint that it was made from.
            workers: threads that call it side by side.
            micro_batch: images in a call; a shorter one is filled up.
            precision: ``bf16`` rounds to 8 bits, ``fp16`` to 11; a file of 8-bit integers keeps those in any.

        Raises:
            ConfigError: the processor does not compute in this precision.
            ExportError: the file is missing or damaged.
        """
        core = openvino.Core()
        if precision in NEEDED:
            ability, instructions = NEEDED[precision]
            if ability not in core.get_property("CPU", CAPABILITIES):
                raise ConfigError(
                    f"infer.precision={precision} is not what this processor can compute in; use "
                    f"infer.precision=fp32, or a machine with {instructions}"
                )
        self.preprocess = sidecar.preprocess
        self.class_names = readable(sidecar.class_names)
        self.workers, self.micro_batch = workers, micro_batch
        settings: dict[Any, Any] = {
            properties.inference_num_threads: workers,
            properties.num_streams: workers,
            properties.hint.inference_precision: TYPES[precision],
        }
        side = sidecar.preprocess.image_size
        try:
            model = core.read_model(str(file))
            model.reshape([micro_batch, side, side, 3])
            self.model = core.compile_model(model, "CPU", settings)
        except Exception as cause:
            reason = " ".join(str(cause).split())
            raise ExportError(f"engine file {file} cannot be loaded ({reason})") from cause
        self.own = threading.local()
        """Each worker's request: it holds the buffers of one call."""
        # Alone, because OpenVINO prepares things at its first call, and two threads that make it
        # at the same time can wait for each other for ever.
        self.forward(np.zeros((micro_batch, side, side, 3), dtype=np.uint8))
        del self.own.request

    def forward(self, pixels: PixelArray) -> Outputs:
        """Answers to pixels, (N, S, S, 3) uint8."""
        if not hasattr(self.own, "request"):
            self.own.request = self.model.create_infer_request()
        count = len(pixels)
        if count < self.micro_batch:
            filler = np.zeros((self.micro_batch - count, *pixels.shape[1:]), dtype=np.uint8)
            pixels = np.concatenate([pixels, filler])
        found = self.own.request.infer({"pixels": pixels}, share_inputs=True)
        return Outputs(np.array(found["logits"][:count]), np.array(found["features"][:count]))
