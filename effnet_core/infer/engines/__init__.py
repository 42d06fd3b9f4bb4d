"""Predictors: the engines that turn images into logits, behind one protocol (``predict.Predictor``).

The parent chooses an engine and makes its file (``prepare``); a child process runs it (``load``).
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_core.config.schema import InferConfig, RunConfig
from effnet_core.errors import ConfigError
from effnet_core.events import Event, emit
from effnet_core.infer.engines.tuning import CACHE_NAME, TUNING_NAME, EngineLayout, best_layout
from effnet_core.jobs.job import PredictJob
from effnet_core.storage.cache import cache_dir, cached
from effnet_core.system.files import put_in_place, sha256_of_text
from effnet_core.system.locks import alone, scratch_folder
from effnet_core.system.machine import available_cores, processor_features
from effnet_core.weights import quantized
from effnet_core.weights.checkpoint import Checkpoint, Sidecar

if TYPE_CHECKING:
    from effnet_core.infer.pipeline import Predictor

PACKAGES = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
"""What each engine that runs an engine file needs."""
DEVICES = {"onnxruntime": ("CPU", "GPU"), "openvino": ("CPU",)}
"""What each of them computes on."""
GPU_LAYOUT = EngineLayout(2, 64)
"""On a GPU: one call computes while another one's images arrive."""
SPECIAL = (
    ("bf16", "openvino", "CPU"),
    ("fp16", "openvino", "CPU"),
    ("fp16", "onnxruntime", "GPU"),
    ("int8", "onnxruntime", "CPU"),
    ("int8", "openvino", "CPU"),
)
"""Precision, engine and device: what computes in less than fp32."""
FEW = 64
"""So many images are done before a measurement would be."""
MINDSPORE_MICRO_BATCH = 32
"""Images in a call of MindSpore, which computes a batch on all cores."""


def choose(config: RunConfig) -> str:
    """The engine that ``infer.engine`` means on this machine.

    ``auto`` is onnxruntime where it is installed on a CPU, several times faster there, or with CUDA on a
    GPU; openvino where only that has the precision; else mindspore. What is the fastest is a matter of
    ``selection.py``.

    Raises:
        ConfigError: the engine is not installed, or does not go with the device or the precision.
    """
    asked, device = config.infer.engine, config.runtime.device
    if asked == "auto":
        asked = "onnxruntime" if _has_onnxruntime(device) else "mindspore"
        if (config.infer.precision, "openvino", device) in SPECIAL and not missing("openvino"):
            asked = asked if (config.infer.precision, asked, device) in SPECIAL else "openvino"
    elif asked in PACKAGES and device not in DEVICES[asked]:
        raise ConfigError(
            f"infer.engine={asked} runs on {' and '.join(DEVICES[asked])}, not on runtime.device={device}; "
            "use infer.engine=mindspore, or runtime.device=CPU"
        )
    elif asked in PACKAGES and missing(asked):
        raise ConfigError(
            f"infer.engine={asked} needs the package {missing(asked)[0]}, which is not installed; "
            f"pip install {' '.join(PACKAGES[asked])}, or use infer.engine=mindspore"
        )
    elif asked == "onnxruntime" and not _has_onnxruntime(device):
        raise ConfigError(
            f"infer.engine=onnxruntime needs onnxruntime-gpu on runtime.device={device}, and the installed "
            "onnxruntime has no CUDA; run make gpu (docs/gpu.md), or use infer.engine=mindspore"
        )
    _require_precision(config.infer.precision, asked, device)
    return asked


def _require_precision(precision: str, engine: str, device: str) -> None:
    """Refuse a precision in which nothing that was chosen computes."""
    if precision in ("auto", "fp32") or (precision, engine, device) in SPECIAL:
        return
    needs = {
        "bf16": "infer.engine=openvino",
        "fp16": "infer.engine=openvino, or infer.engine=onnxruntime with runtime.device=GPU",
        "int8": "infer.engine=onnxruntime or openvino with runtime.device=CPU",
    }
    raise ConfigError(
        f"infer.precision={precision} needs {needs[precision]}; {engine} computes in fp32 on {device}"
    )


def _has_onnxruntime(device: str) -> bool:
    """Whether onnxruntime is installed and was built for a device."""
    if missing("onnxruntime") or device not in DEVICES["onnxruntime"]:
        return False
    if device == "CPU":
        return True
    from effnet_core.infer.engines.onnxruntime import CUDA, built_for

    return CUDA in built_for()


def installed() -> list[str]:
    """The engines that run an engine file and are installed, the first of which verifies files."""
    return [name for name in PACKAGES if not missing(name)]


def require_int8() -> None:
    """Refuse int8 on x86 processors whose sums of 8-bit products would overflow.

    Raises:
        ConfigError: this is one.
    """
    if not computes_int8(platform.machine(), processor_features()):
        raise ConfigError(
            "int8 needs a processor with VNNI (AVX512_VNNI or AVX_VNNI): others sum 8-bit products in 16 "
            "bits, which overflow, and give other answers; use infer.precision=fp32, or another machine"
        )


def computes_int8(machine: str, features: Collection[str]) -> bool:
    """Whether a processor computes int8 networks as they were measured."""
    return machine not in ("x86_64", "AMD64") or bool({"avx512_vnni", "avx_vnni"} & set(features))


def missing(engine: str) -> list[str]:
    """Packages that an engine needs and that are not installed."""
    return [name for name in PACKAGES[engine] if find_spec(name) is None]


def prepare(checkpoint: Checkpoint, config: RunConfig) -> tuple[str, Path | None]:
    """Choose an engine and make what it needs.

    The engine's file is made once from a checkpoint, compared with MindSpore's logits, and kept in the
    cache under a name made of digests; it is there whole or not at all.

    Returns:
        The engine's name, and its file; MindSpore has none, it loads the checkpoint itself.

    Raises:
        ConfigError: the engine cannot run here.
        CheckpointError: the checkpoint cannot be used.
        ExportError: the file does not agree with MindSpore.
    """
    engine = choose(config)
    if engine == "mindspore":
        return engine, None
    if config.infer.precision == "int8":
        return engine, int8_file(checkpoint)
    return engine, engine_file(checkpoint, config, engine)


def int8_file(checkpoint: Checkpoint) -> Path:
    """The int8 network that was published or made with a checkpoint.

    Raises:
        ConfigError: there is none.
        CheckpointError: it is damaged, or another one's.
    """
    require_int8()
    path = quantized.path_of(checkpoint)
    if path is None:
        raise ConfigError(
            f"infer.precision=int8 needs a model with an int8 network, and {checkpoint.path.parent} has "
            "none; make one with effnet quantize, or publish with storage.int8=true"
        )
    return path


def engine_file(checkpoint: Checkpoint, config: RunConfig, engine: str = "onnxruntime") -> Path:
    """The cached engine file of a checkpoint, made if it is not there; see ``prepare``."""
    from effnet_core.export.onnx_model import GRAPH_VERSION, metadata

    sidecar = checkpoint.sidecar
    what = metadata(sidecar)
    settings = (engine, str(GRAPH_VERSION), str(sidecar.bn_eps), sidecar.padding)
    digest = sha256_of_text(*settings, *what.values())
    path = cached(cache_dir(CACHE_NAME) / f"{sidecar.variant}-{digest[:32]}.onnx")
    with alone(path):
        if not _is_usable(path, what):
            _make(checkpoint, path, engine, config)
    return path


def load(
    job: PredictJob, checkpoint: Checkpoint, infer: InferConfig, device: str = "CPU"
) -> Predictor:
    """The engine of a predict job; to be called in a child process.

    Args:
        job: names the engine and its file, and how many images there are.
        checkpoint: the job's, opened.
        infer: settings of the engine.
        device: as ``runtime.device``, for engines that run an engine file.

    Raises:
        CheckpointError: the checkpoint does not hold exactly the parameters of its variant.
        ConfigError: the engine does not start on the device.
        ExportError: the engine file is damaged.
    """
    images = sum(shard.stop - shard.start for shard in job.shards)
    return load_for(job.engine, job.engine_file, checkpoint, infer, images, device)


def load_for(
    engine: str,
    file: Path | None,
    checkpoint: Checkpoint,
    infer: InferConfig,
    images: int,
    device: str = "CPU",
) -> Predictor:
    """An engine for so many images; to be called in a child process.

    Args:
        engine: its name.
        file: what it runs; None for MindSpore.
        checkpoint: the model; how its sidecar says that images are made is how the engine makes them.
        infer: settings of the engine.
        images: that it will be given, all together.
        device: as ``runtime.device``, for engines that run an engine file.

    Raises:
        CheckpointError: the checkpoint does not hold exactly the parameters of its variant.
        ExportError: the engine file is damaged.
    """
    sidecar = checkpoint.sidecar
    if file is None:
        from effnet_core.infer.engines.mindspore import MindSporePredictor

        # Short batches are filled up, so a few images should not pay for a large one.
        micro_batch = infer.batch_size or MINDSPORE_MICRO_BATCH
        return MindSporePredictor(checkpoint, micro_batch=min(micro_batch, images))
    cores = len(available_cores())

    def make(layout: EngineLayout) -> Predictor:
        return load_file(
            engine,
            file,
            sidecar,
            infer,
            workers=layout.workers,
            micro_batch=layout.micro_batch,
            device=device,
        )

    asked = EngineLayout(infer.engine_threads, infer.batch_size)
    if device == "GPU":
        return make(
            EngineLayout(
                asked.workers or GPU_LAYOUT.workers, asked.micro_batch or GPU_LAYOUT.micro_batch
            )
        )
    if images <= FEW or (asked.workers and asked.micro_batch):
        return make(EngineLayout(asked.workers or cores, asked.micro_batch or 1))
    key = f"{engine} {infer.precision} {file.stem}"
    return make(best_layout(key, file.parent / TUNING_NAME, make, asked=asked, cores=cores))


def load_file(
    engine: str,
    file: Path,
    sidecar: Sidecar,
    infer: InferConfig,
    *,
    workers: int,
    micro_batch: int,
    device: str = "CPU",
) -> Predictor:
    """An engine that runs an engine file.

    Raises:
        ExportError: the file is damaged.
        ConfigError: it does not start on the device.
    """
    if engine == "openvino":
        from effnet_core.infer.engines.openvino import OpenVinoPredictor

        return OpenVinoPredictor(
            file,
            sidecar,
            workers=workers,
            micro_batch=micro_batch,
            precision=infer.precision if infer.precision in ("bf16", "fp16") else "fp32",
        )
    from effnet_core.infer.engines.onnxruntime import OnnxRuntimePredictor

    return OnnxRuntimePredictor(
        file,
        sidecar,
        workers=workers,
        micro_batch=micro_batch,
        device=device,
        precision=infer.precision,
    )


def _is_usable(path: Path, wanted: dict[str, str]) -> bool:
    """Whether a whole model with these properties lies there."""
    import onnx

    try:
        model = onnx.load(path)
    except Exception:  # missing, or damaged in any way: it can be made again
        return False
    return {item.key: item.value for item in model.metadata_props} == wanted


def _make(checkpoint: Checkpoint, path: Path, engine: str, config: RunConfig) -> None:
    from effnet_core.export.export import require_agreement
    from effnet_core.export.onnx_model import write_onnx

    emit(Event("predict", f"making the {engine} engine of {checkpoint.sidecar.variant}, once"))
    with scratch_folder("new", beside=path.parent) as folder:
        fresh = folder / path.name
        write_onnx(checkpoint, fresh, features=True, pixels=True)
        require_agreement(checkpoint, fresh, engine, config=config)
        put_in_place(fresh, path)
