"""Predictors: the engines that turn images into logits, behind one protocol (``predict.Predictor``).

The parent chooses an engine and makes its file (``prepare``); a child process runs it (``load``).
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_core import checkpoint as checkpoints
from effnet_core.cache import alone, cache_dir
from effnet_core.checkpoint import Sidecar
from effnet_core.config import InferConfig, RunConfig
from effnet_core.errors import ConfigError
from effnet_core.events import Event, emit
from effnet_core.files import put_in_place, sha256_of_text

if TYPE_CHECKING:
    from effnet_core.predict import Predictor

CACHE_NAME = "engines"
ONNX_PACKAGES = ("onnx", "onnxruntime")


def choose(config: RunConfig) -> str:
    """The engine that ``infer.engine`` means on this machine.

    ``auto`` is onnxruntime on a CPU where it is installed, several times faster there, else mindspore.

    Raises:
        ConfigError: the engine is not installed, or does not go with the device.
    """
    asked, device = config.infer.engine, config.runtime.device
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if asked == "auto":
        return "onnxruntime" if device == "CPU" and not missing else "mindspore"
    if asked == "onnxruntime" and device != "CPU":
        raise ConfigError(
            f"infer.engine=onnxruntime runs on CPU, not on runtime.device={device}; "
            "use infer.engine=mindspore, or runtime.device=CPU"
        )
    if asked == "onnxruntime" and missing:
        raise ConfigError(
            f"infer.engine=onnxruntime needs the package {missing[0]}, which is not installed; "
            f"pip install {' '.join(missing)}, or use infer.engine=mindspore"
        )
    return asked


def prepare(checkpoint: Path, config: RunConfig) -> dict[str, Any]:
    """Choose an engine and make what it needs; the job's inputs that ``load`` reads.

    The engine's file is made once from a checkpoint, compared with MindSpore's logits, and kept in the
    cache under a name made of digests; it is there whole or not at all.

    Raises:
        ConfigError: the engine cannot run here.
        CheckpointError: the checkpoint cannot be used.
        ExportError: the file does not agree with MindSpore.
    """
    engine = choose(config)
    if engine == "mindspore":
        return {"engine": engine}
    return {"engine": engine, "engine_file": str(engine_file(checkpoint, config))}


def engine_file(checkpoint: Path, config: RunConfig) -> Path:
    """The cached ONNX file of a checkpoint, made if it is not there; see ``prepare``."""
    from effnet_core.export.onnx_model import GRAPH_VERSION, metadata

    sidecar = checkpoints.read_sidecar(checkpoint)
    what = metadata(sidecar)
    settings = (str(GRAPH_VERSION), str(sidecar.bn_eps), sidecar.padding)
    digest = sha256_of_text(*settings, *what.values())
    path = cache_dir(CACHE_NAME) / f"{sidecar.variant}-{digest[:32]}.onnx"
    with alone(path):
        if not _is_usable(path, what):
            _make(checkpoint, sidecar, path, config)
    return path


def load(inputs: dict[str, Any], infer: InferConfig) -> Predictor:
    """The engine of a predict job; to be called in a child process.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or not what its sidecar says.
    """
    checkpoint = Path(inputs["checkpoint"])
    if inputs["engine"] == "mindspore":
        from effnet_core.engines.mindspore import MindSporePredictor

        # Short batches are filled up, so a few images should not pay for a large one.
        images = sum(shard["stop"] - shard["start"] for shard in inputs["shards"])
        return MindSporePredictor(checkpoint, batch_size=min(infer.batch_size, images))
    from effnet_core.engines.onnxruntime import OnnxRuntimePredictor

    sidecar = checkpoints.read_sidecar(checkpoint)
    return OnnxRuntimePredictor(Path(inputs["engine_file"]), sidecar, threads=infer.engine_threads)


def _is_usable(path: Path, wanted: dict[str, str]) -> bool:
    """Whether a whole model with these properties lies there."""
    import onnx

    try:
        model = onnx.load(path)
    except Exception:  # missing, or damaged in any way: it can be made again
        return False
    return {item.key: item.value for item in model.metadata_props} == wanted


def _make(checkpoint: Path, sidecar: Sidecar, path: Path, config: RunConfig) -> None:
    from effnet_core.export.commands import require_agreement
    from effnet_core.export.onnx_model import write_onnx

    emit(Event("predict", f"making the onnxruntime engine of {sidecar.variant}, once"))
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        write_onnx(checkpoint, sidecar, fresh)
        require_agreement(checkpoint, fresh, "onnx", config=config)
        put_in_place(fresh, path)
