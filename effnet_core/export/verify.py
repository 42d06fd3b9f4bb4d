"""The child's side of an export: what only MindSpore can write, and the comparison with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import onnxruntime
from mindspore import Tensor, nn
from numpy.typing import NDArray

from effnet_core.data.preprocess import PixelArray, PreprocessSpec, decode_square, normalise
from effnet_core.errors import EffnetError, ExportError
from effnet_core.weights.checkpoint import Checkpoint, Sidecar
from effnet_core.weights.load import load_network

FloatArray = NDArray[np.float32]
Run = Callable[[PixelArray], FloatArray]
"""From pixels, (N, S, S, 3) uint8, to logits, (N, classes)."""
LoadEngine = Callable[[str, Path, Sidecar, int], Run]
"""Loads an engine file: the engine's name, the file, its sidecar, images in a call at most."""

RANDOM_IMAGES = 2


def write_mindir(checkpoint: Checkpoint, out: Path) -> None:
    """Write a checkpoint as a MindIR file with a free batch dimension.

    Args:
        checkpoint: the model.
        out: ends in ``.mindir``; MindSpore would add that.

    Raises:
        CheckpointError: it is missing, damaged or not what its sidecar says.
    """
    network = load_network(checkpoint)
    side = checkpoint.sidecar.preprocess.image_size
    images = Tensor(shape=[None, 3, side, side], dtype=ms.float32)
    ms.export(network, images, file_name=str(out), file_format="MINDIR")


def compare(
    checkpoint: Checkpoint,
    file: Path,
    format: str,
    pictures: Sequence[Path],
    *,
    load_engine: LoadEngine,
) -> dict[str, Any]:
    """The logits of an exported file beside those of MindSpore.

    Args:
        checkpoint: what the file was made from.
        file: an ONNX or MindIR file, or an engine file.
        format: ``onnx``, ``mindir``, or the engine that runs an engine file.
        pictures: real images, compared besides random ones.
        load_engine: gives what runs an engine file.

    Returns:
        ``difference``, the largest between two logits; ``spread``, the standard deviation of the logits;
        ``images``, how many were compared. Every image is computed alone and among the others.
    """
    sidecar = checkpoint.sidecar
    pixels = sample_pixels(sidecar.preprocess, pictures)
    # Without a graph to compile, a few images are done in a fraction of the time.
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = load_network(checkpoint)
    wanted: FloatArray = network(Tensor(normalise(pixels, sidecar.preprocess))).asnumpy()
    found = _exported_logits(file, format, sidecar, pixels, load_engine)
    return {
        "difference": max(float(np.abs(answer - wanted).max()) for answer in found),
        "spread": float(wanted.std()),
        "images": len(pixels),
    }


def sample_pixels(spec: PreprocessSpec, pictures: Sequence[Path]) -> PixelArray:
    """Noise and pictures, (N, S, S, 3) uint8."""
    side = spec.image_size
    noise = np.random.default_rng(0).integers(0, 256, (RANDOM_IMAGES, side, side, 3), np.uint8)
    return np.stack([*noise, *(decode_square(p.read_bytes(), spec, fast=False) for p in pictures)])


def _exported_logits(
    file: Path,
    format: str,
    sidecar: Sidecar,
    pixels: PixelArray,
    load_engine: LoadEngine,
) -> list[FloatArray]:
    """Answers of a file for a whole batch, and image by image."""
    try:
        run = _runner(file, format, sidecar) or load_engine(format, file, sidecar, len(pixels))
        return [run(pixels), np.concatenate([run(square[None]) for square in pixels])]
    except EffnetError:
        raise
    except Exception as cause:
        raise ExportError(f"the exported {format} file cannot be loaded back ({cause})") from cause


def _runner(file: Path, format: str, sidecar: Sidecar) -> Run | None:
    """What computes the logits with a file that was exported for others; None for an engine file."""
    spec = sidecar.preprocess
    if format == "onnx":
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

        def run(pixels: PixelArray) -> FloatArray:
            answer: FloatArray = session.run(["logits"], {"images": normalise(pixels, spec)})[0]
            return answer

        return run
    if format == "mindir":
        cell = nn.GraphCell(ms.load(str(file)))

        def compute(pixels: PixelArray) -> FloatArray:
            answer: FloatArray = cell(Tensor(normalise(pixels, spec))).asnumpy()
            return answer

        return compute
    return None
