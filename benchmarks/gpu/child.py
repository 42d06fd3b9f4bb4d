"""The measurements, each in a process of its own: ``python -m benchmarks.gpu.child NAME JSON``.

What is found is printed at once, a line each; the parent keeps what there is when time is up.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "found:"


def tell(**facts: Any) -> None:
    """Give the parent some results."""
    print(MARK, json.dumps(facts), flush=True)


def config_of(options: dict[str, Any], *settings: str) -> Any:
    """Settings on the device of the check; those that only GPUs have are left out on a CPU."""
    from effnet_core.config.load import load_config
    from effnet_core.config.schema import GPU_ONLY

    on_gpu = ["runtime.device=GPU", "runtime.world_size=1", *settings]
    if options["device"] == "GPU":
        return load_config(None, on_gpu)
    load_config(None, on_gpu)  # they must be right all the same
    keys = tuple(f"runtime.{key}=" for key in GPU_ONLY)
    return load_config(None, [s for s in settings if not s.startswith(keys)])


def first_start(options: dict[str, Any]) -> None:
    """Seconds from nothing to the first answer of the device."""
    began = time.perf_counter()
    import mindspore

    from effnet_core.jobs.collective import join_group

    tell(import_s=time.perf_counter() - began, mindspore=mindspore.__version__)
    join_group(config_of(options).runtime)
    tell(first_answer_s=time.perf_counter() - began)


def training_step(options: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], None]]:
    """A step as ``effnet train`` does it, and what compiles it."""
    import mindspore as ms
    import numpy as np

    from benchmarks.train import batch_of_noise
    from effnet_core.jobs import environment
    from effnet_core.jobs.collective import join_group
    from effnet_core.model.network import create_model
    from effnet_core.train.control import Control
    from effnet_core.train.masks import drop_path_scale, dropout_scale
    from effnet_core.train.optim import create_optimizer, set_learning_rate
    from effnet_core.train.precision import loss_scale, lower
    from effnet_core.train.step import StepOptions, TrainStep

    environment.prepare()
    config, batch = config_of(options, *options["settings"]), options["batch"]
    join_group(config.runtime)
    network = create_model(options["variant"], num_classes=1000, layout=config.runtime.layout)
    lower(network, config)
    optimizer = create_optimizer(network.trainable_params(), config.optim)
    chosen = StepOptions(label_smoothing=0.1, loss_scale=loss_scale(config))
    cell = TrainStep(network, optimizer, chosen).set_train()
    images, labels = batch_of_noise(batch, options["side"])
    rng, blocks = np.random.default_rng(1), len(network.blocks)
    features = network.classifier.in_channels

    def inputs() -> list[Any]:
        rates = [0.2 * index / blocks for index in range(blocks)]
        arrays = (
            images,
            labels,
            Control().encode().asnumpy(),
            drop_path_scale(rng, rates, batch),
            dropout_scale(rng, 0.2, (batch, features)),
        )
        return [ms.Tensor(array) for array in arrays]

    def step() -> None:
        set_learning_rate(optimizer, 0.001)
        cell(*inputs()).asnumpy()

    return step, lambda: cell.compile(*inputs())


def step(options: dict[str, Any]) -> None:
    """Milliseconds of a training step. Graphs are compiled side by side, steps measured one by one."""
    from benchmarks.train import median_seconds
    from effnet_core.system.locks import turn

    began = time.perf_counter()
    run, compile_graph = training_step(options)
    compile_graph()
    tell(compile_s=time.perf_counter() - began)
    with turn(Path(options["folder"]) / "measuring.lock", lambda line: None):
        began = time.perf_counter()
        run()
        tell(first_step_s=time.perf_counter() - began)
        seconds = median_seconds(run, options["steps"])
        tell(ms=1000 * seconds, images_per_s=options["batch"] / seconds, **memory())
        if options.get("profile"):
            profile(run, options, step_ms=1000 * seconds)


def memory() -> dict[str, float]:
    """Peak memory of MindSpore's pool, GB, where it says."""
    import mindspore as ms

    try:
        return {"peak_gb": ms.runtime.max_memory_allocated() / 1e9}
    except (AttributeError, RuntimeError, ValueError):
        return {}


def profile(run: Callable[[], Any], options: dict[str, Any], *, step_ms: float) -> None:
    """Where the time of some steps goes."""
    import mindspore as ms

    from benchmarks.gpu.profile import read

    with tempfile.TemporaryDirectory() as folder:
        profiler = ms.profiler.Profiler(
            output_path=folder, activities=_activities(options["device"])
        )
        for _ in range(options["steps"]):
            run()
        profiler.analyse()
        # Tables, however the profiler nests them.
        tell(profile=read(Path(folder), steps=options["steps"], step_ms=step_ms))


def _activities(device: str) -> list[Any]:
    """What is recorded: kernels of the device are not by default, but for an Ascend's."""
    from mindspore.profiler import ProfilerActivity

    return [ProfilerActivity.CPU, *([ProfilerActivity.GPU] if device == "GPU" else [])]


OPERATORS = {
    "1x1 convolution, 16 to 96 channels": ("pointwise", 16, 96, 112),
    "1x1 convolution, 112 to 672": ("pointwise", 112, 672, 14),
    "depthwise 3x3, 96": ("depthwise3", 96, 96, 112),
    "depthwise 5x5, 672": ("depthwise5", 672, 672, 14),
    "BatchNorm, 96": ("norm", 96, 96, 112),
    "SiLU, 96": ("silu", 96, 96, 112),
    "casts to 16 bits and back, 96": ("cast", 96, 96, 112),
}
"""Layers of B0 at 224 px: kind, channels in and out, side of the input."""


def operators(options: dict[str, Any]) -> None:
    """Milliseconds of layers alone, forward and backward together."""
    import mindspore as ms
    import numpy as np

    from benchmarks.train import median_seconds
    from effnet_core.jobs import environment
    from effnet_core.jobs.collective import join_group

    environment.prepare()
    join_group(config_of(options).runtime)
    shrink = options["side"] / 224
    for name, (kind, inner, outer, side) in OPERATORS.items():
        layer = _summed(_layer(kind, inner, outer)).set_train()
        pixels = max(2, round(side * shrink))
        x = ms.Tensor(np.ones((options["batch"], inner, pixels, pixels), np.float32))
        both = ms.value_and_grad(layer, 0, layer.trainable_params() or None)

        def once(both: Any = both, x: Any = x) -> None:
            for _ in range(5):
                answer = both(x)
            answer[0].asnumpy()

        tell(**{name: 1000 * median_seconds(once, options["steps"]) / 5})


def _summed(layer: Any) -> Any:
    """A layer whose output is one number, as gradients need it."""
    from mindspore import nn

    class Summed(nn.Cell):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.layer = layer

        def construct(self, x: Any) -> Any:
            return self.layer(x).sum()

    return Summed(layer)


def _layer(kind: str, inner: int, outer: int) -> Any:
    import mindspore as ms
    from mindspore import nn

    if kind == "norm":
        return nn.BatchNorm2d(inner)
    if kind == "silu":
        return nn.SiLU()
    if kind == "cast":

        class Cast(nn.Cell):
            def construct(self, x: Any) -> Any:
                return x.astype(ms.float16).astype(ms.float32)

        return Cast()
    kernel = int(kind[-1]) if kind.startswith("depthwise") else 1
    groups = inner if kernel > 1 else 1
    return nn.Conv2d(inner, outer, kernel, pad_mode="same", group=groups)


def logits(options: dict[str, Any]) -> None:
    """Answers of a checkpoint to noise on a device, as a file."""
    import mindspore as ms
    import numpy as np

    from effnet_core.jobs.collective import join_group
    from effnet_core.weights.checkpoint import open_checkpoint
    from effnet_core.weights.load import load_network

    join_group(config_of(options, "runtime.conv_tf32=false").runtime)
    network = load_network(open_checkpoint(Path(options["checkpoint"])))
    side = options["side"]
    noise = np.random.default_rng(0).standard_normal((8, 3, side, side)).astype(np.float32)
    np.save(options["out"], network(ms.Tensor(noise)).asnumpy())
    tell(images=len(noise))


def torch(options: dict[str, Any]) -> None:
    """A step of torch + torchvision in the interpreter that has them."""
    import torch as library
    import torchvision

    from benchmarks import train

    if options["mode"] == "compiled":
        usual = torchvision.models.efficientnet_b0
        torchvision.models.efficientnet_b0 = lambda **given: library.compile(usual(**given))
    library.backends.cuda.matmul.allow_tf32 = True
    began = time.perf_counter()
    device = "cuda" if options["device"] == "GPU" else "cpu"
    sizes = (options["batch"], options["side"], options["steps"])
    seconds = train.torch(*sizes, device=device, precision=options["precision"])
    tell(
        ms=1000 * seconds,
        images_per_s=options["batch"] / seconds,
        total_s=time.perf_counter() - began,
        torch=library.__version__,
        torchvision=torchvision.__version__,
    )
    if device == "cuda":
        tell(peak_gb=library.cuda.max_memory_allocated() / 1e9)


def main() -> None:
    """Run one function with its options."""
    name, text = sys.argv[1:]
    from benchmarks.gpu import whole

    functions = {
        "first_start": first_start,
        "step": step,
        "operators": operators,
        "logits": logits,
        "torch": torch,
        "correctness": whole.correctness,
        "labelling": whole.labelling,
        "ranks": whole.ranks,
    }
    functions[name](json.loads(text))


if __name__ == "__main__":
    main()
