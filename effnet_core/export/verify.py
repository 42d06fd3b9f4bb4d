"""The child's side of an export: what only MindSpore can write, and the comparison with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from numpy.typing import NDArray

from effnet_core import checkpoint as checkpoints
from effnet_core.checkpoint import Sidecar
from effnet_core.data.images import read_image
from effnet_core.data.preprocess import PreprocessSpec, preprocess
from effnet_core.engines.mindspore import load_network
from effnet_core.engines.onnxruntime import OnnxRuntimePredictor
from effnet_core.errors import EffnetError, ExportError

FloatArray = NDArray[np.float32]

RANDOM_IMAGES = 2


def write_mindir(checkpoint: Path, out: Path) -> None:
    """Write a checkpoint as a MindIR file with a free batch dimension.

    Args:
        checkpoint: with its sidecar.
        out: ends in ``.mindir``; MindSpore would add that.

    Raises:
        CheckpointError: it is missing, damaged or not what its sidecar says.
    """
    sidecar = checkpoints.read_sidecar(checkpoint)
    network = load_network(checkpoint, sidecar)
    side = sidecar.preprocess.image_size
    images = Tensor(shape=[None, 3, side, side], dtype=ms.float32)
    ms.export(network, images, file_name=str(out), file_format="MINDIR")


def compare(checkpoint: Path, file: Path, format: str, pictures: list[Path]) -> dict[str, Any]:
    """The logits of an exported file beside those of MindSpore.

    Args:
        checkpoint: what the file was made from.
        file: an ONNX or MindIR file.
        format: ``onnx`` or ``mindir``.
        pictures: real images, compared besides random ones.

    Returns:
        ``difference``, the largest between two logits; ``spread``, the standard deviation of the logits;
        ``images``, how many were compared. Every image is computed alone and among the others.
    """
    sidecar = checkpoints.read_sidecar(checkpoint)
    images = sample_images(sidecar.preprocess, pictures)
    # Without a graph to compile, a few images are done in a fraction of the time.
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = load_network(checkpoint, sidecar)
    wanted: FloatArray = network(Tensor(images)).asnumpy()
    found = _exported_logits(file, format, sidecar, images)
    return {
        "difference": max(float(np.abs(answer - wanted).max()) for answer in found),
        "spread": float(wanted.std()),
        "images": len(images),
    }


def sample_images(spec: PreprocessSpec, pictures: list[Path]) -> FloatArray:
    """Noise of the range that normalised pixels have, and pictures, (N, 3, S, S)."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(RANDOM_IMAGES, 3, spec.image_size, spec.image_size))
    real = [preprocess(read_image(path), spec) for path in pictures]
    return np.stack([*noise.astype(np.float32), *real])


def _exported_logits(
    file: Path, format: str, sidecar: Sidecar, images: FloatArray
) -> list[FloatArray]:
    """Answers of a file for a whole batch, and image by image."""
    try:
        run = _runner(file, format, sidecar)
        return [run(images), np.concatenate([run(image[None]) for image in images])]
    except EffnetError:
        raise
    except Exception as cause:
        raise ExportError(f"the exported {format} file cannot be loaded back ({cause})") from cause


def _runner(file: Path, format: str, sidecar: Sidecar) -> Callable[[FloatArray], FloatArray]:
    """What computes the logits of a batch with an exported file."""
    if format == "onnx":
        return OnnxRuntimePredictor(file, sidecar).logits
    cell = nn.GraphCell(ms.load(str(file)))

    def run(batch: FloatArray) -> FloatArray:
        answer: FloatArray = cell(Tensor(batch)).asnumpy()
        return answer

    return run
