"""ONNX Runtime: on a CPU several times faster than a MindSpore forward; on a GPU by CUDA or TensorRT.

On a CPU each core computes a few images by itself instead of all cores sharing every layer: nobody waits for
anybody, and what a layer hands to the next stays in the core's cache. On EfficientNet-B0 at 224 that
takes 11.5 ms of processor time an image, against 13 to 20 (batch of 4 to 64) for shared layers. The
answer to an image does not depend on its batch, to the last bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from pathlib import Path
from typing import Any

import onnxruntime

from effnet_core.data.imagenet import readable
from effnet_core.data.preprocess import PixelArray
from effnet_core.errors import ConfigError, ExportError
from effnet_core.export.half import in_sixteen_bits
from effnet_core.infer.pipeline import Outputs
from effnet_core.weights.checkpoint import Sidecar

ERRORS_ONLY = 3
"""ONNX Runtime's level of log messages."""


CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))
TENSORRT_LIBRARY = "libnvinfer.so.10"

Provider = tuple[str, dict[str, Any]]


def built_for() -> list[str]:
    """The providers of the installed onnxruntime; whether their libraries are there is another matter."""
    found: list[str] = onnxruntime.get_available_providers()
    return found


def providers(
    device: str, precision: str, *, built: Collection[str], tensorrt: bool, cache: Path
) -> list[Provider]:
    """What shall compute, best first, with its options.

    TensorRT where it was built in and its library is there, and CUDA for what that leaves. The CPU takes
    what neither has, which ONNX Runtime asks for.

    Args:
        device: ``CPU`` or ``GPU``.
        precision: ``fp16`` for 16 bits, on a GPU.
        built: as ``built_for``.
        tensorrt: whether TensorRT's library is there.
        cache: folder for what TensorRT compiles, which takes minutes.
    """
    if device != "GPU":
        return [(CPU, {})]
    chosen: list[Provider] = []
    if tensorrt and TENSORRT in built:
        options = {
            "trt_fp16_enable": precision == "fp16",
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
        chosen.append((TENSORRT, options))
    if CUDA in built:
        chosen.append((CUDA, {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": False}))
    return [*chosen, (CPU, {})]


def has_tensorrt() -> bool:
    """Whether TensorRT's library can be loaded; without it ONNX Runtime would complain at each start."""
    try:
        ctypes.CDLL(TENSORRT_LIBRARY)
    except OSError:
        return False
    return True


class OnnxRuntimePredictor:
    """A checkpoint's engine file in ONNX Runtime."""

    def __init__(
        self,
        file: Path,
        sidecar: Sidecar,
        *,
        workers: int,
        micro_batch: int,
        device: str = "CPU",
        precision: str = "fp32",
    ) -> None:
        """Load an engine file.

        Args:
            file: made by ``export.onnx_model`` with ``pixels`` and ``features``.
            sidecar: of the checkpoint that it was made from.
            workers: threads that call it side by side.
            micro_batch: images in a call.
            device: ``CPU`` or ``GPU``.
            precision: ``fp32``, or ``fp16`` for weights and images in 16 bits between input and output.

        Raises:
            ExportError: the file is missing or damaged.
            ConfigError: the GPU cannot be used.
        """
        self.preprocess = sidecar.preprocess
        self.class_names = readable(sidecar.class_names)
        self.workers, self.micro_batch = workers, micro_batch
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        chosen = providers(
            device,
            precision,
            built=built_for(),
            tensorrt=device == "GPU" and has_tensorrt(),
            cache=file.parent,
        )
        try:
            model = in_sixteen_bits(file) if precision == "fp16" else str(file)
            self.session = onnxruntime.InferenceSession(model, options, providers=chosen)
        except Exception as cause:
            reason = " ".join(str(cause).split())
            raise ExportError(f"engine file {file} cannot be loaded ({reason})") from cause
        self.providers: list[str] = self.session.get_providers()
        if device == "GPU" and self.providers[0] == CPU:  # it only warns
            raise ConfigError(
                "onnxruntime cannot use the GPU: its CUDA libraries or the driver are missing or of "
                "another version; see effnet doctor and docs/gpu.md, or use infer.engine=mindspore"
            )

    def forward(self, pixels: PixelArray) -> Outputs:
        """Answers to pixels, (N, S, S, 3) uint8."""
        logits, features = self.session.run(["logits", "features"], {"pixels": pixels})
        return Outputs(logits, features)
