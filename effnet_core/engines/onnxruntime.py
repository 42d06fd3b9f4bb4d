"""ONNX Runtime on the CPU: several times faster there than a MindSpore forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from effnet_core.checkpoint import Sidecar
from effnet_core.environment import available_cores
from effnet_core.errors import ExportError
from effnet_core.imagenet import readable

FloatArray = NDArray[np.float32]

ERRORS_ONLY = 3
"""ONNX Runtime's level of log messages."""


class OnnxRuntimePredictor:
    """A checkpoint's ONNX file in ONNX Runtime; any batch size, any thread."""

    def __init__(self, file: Path, sidecar: Sidecar, *, threads: int = 0) -> None:
        """Load an ONNX file.

        Args:
            file: made by ``export.onnx_model``.
            sidecar: of the checkpoint that it was made from.
            threads: that compute together; 0 means one for each core that this process may use.

        Raises:
            ExportError: the file is missing or damaged.
        """
        self.preprocess = sidecar.preprocess
        self.class_names = readable(sidecar.class_names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(available_cores())
        options.log_severity_level = ERRORS_ONLY
        # Idle threads sleep instead of spinning: the cores are needed for decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as cause:
            raise ExportError(
                f"engine file {file} cannot be loaded ({_one_line(cause)})"
            ) from cause
        self.input = self.session.get_inputs()[0].name

    def logits(self, images: FloatArray) -> FloatArray:
        """Map (N, 3, S, S) to (N, num_classes)."""
        result: FloatArray = self.session.run(["logits"], {self.input: images})[0]
        return result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
