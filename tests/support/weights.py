"""Checkpoints with drawn weights, made without MindSpore.

BatchNorm statistics, gains and biases are drawn too: fresh ones are 0 and 1, and with those every
comparison between engines would pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.family.scaling import Block, expand
from effnet_core.family.variants import variant as variant_row
from effnet_core.system.files import sha256_of_file, write_json
from effnet_core.weights.checkpoint import Sidecar, sidecar_path
from effnet_core.weights.ckpt_file import write_ckpt

Shapes = dict[str, tuple[int, ...]]


def conv_norm(name: str, inputs: int, outputs: int, kernel: int = 1) -> Shapes:
    """A convolution and its BatchNorm; ``inputs`` are those of one group."""
    norm = ("gamma", "beta", "moving_mean", "moving_variance")
    return {
        f"{name}.conv.weight": (outputs, inputs, kernel, kernel),
        **{f"{name}.norm.{part}": (outputs,) for part in norm},
    }


def block_shapes(name: str, block: Block) -> Shapes:
    hidden, out, squeezed = block.hidden_channels, block.out_channels, block.squeeze_channels
    shapes: Shapes = {}
    if block.op == "fused":
        wide = hidden if block.expands else out
        shapes |= conv_norm(f"{name}.fused", block.in_channels, wide, block.kernel)
    else:
        if block.expands:
            shapes |= conv_norm(f"{name}.expand", block.in_channels, hidden)
        shapes |= conv_norm(f"{name}.depthwise", 1, hidden, block.kernel)
    if squeezed:
        shapes |= {
            f"{name}.se.reduce.weight": (squeezed, hidden, 1, 1),
            f"{name}.se.reduce.bias": (squeezed,),
            f"{name}.se.expand.weight": (hidden, squeezed, 1, 1),
            f"{name}.se.expand.bias": (hidden,),
        }
    if block.op == "mb" or block.expands:
        shapes |= conv_norm(f"{name}.project", hidden, out)
    return shapes


def parameter_shapes(variant: str, num_classes: int) -> Shapes:
    """Every parameter of a network; a test in ``cells`` holds this to MindSpore's own list."""
    architecture = expand(variant_row(variant))
    shapes = conv_norm("stem", 3, architecture.stem_channels, 3)
    for index, block in enumerate(architecture.blocks):
        shapes |= block_shapes(f"blocks.{index}", block)
    head = architecture.head_channels
    shapes |= conv_norm("head", architecture.blocks[-1].out_channels, head)
    return {**shapes, "classifier.weight": (num_classes, head), "classifier.bias": (num_classes,)}


def random_parameters(variant: str, num_classes: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Values that keep the activations of a shallow network near 1, so that images differ."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("moving_variance"):
            return rng.uniform(0.15, 0.45, shape)
        if name.endswith("gamma"):
            return rng.uniform(0.5, 1.0, shape)
        if len(shape) == 1:
            return rng.normal(0, 0.1, shape)
        return rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)

    shapes = parameter_shapes(variant, num_classes)
    return {name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()}


def make_sidecar(
    variant: str,
    num_classes: int = 3,
    *,
    image_size: int | None = None,
    class_names: tuple[str, ...] | None = None,
    **changes: Any,
) -> Sidecar:
    row = variant_row(variant)
    names = class_names or tuple(f"class {index}" for index in range(num_classes))
    spec = PreprocessSpec(
        image_size or row.image_size, row.crop_pct, row.interpolation, row.mean, row.std
    )
    return Sidecar(variant, names, spec, 0.99, 1e-3, 1, 10, False, **changes)


def make_checkpoint(
    path: Path, variant: str = "efficientnet_tiny", num_classes: int = 3, **options: Any
) -> Path:
    """A checkpoint and its sidecar; ``options`` as for ``make_sidecar``, and ``seed``."""
    seed = options.pop("seed", 0)
    sidecar = make_sidecar(variant, num_classes, **options)
    write_ckpt(path, random_parameters(variant, sidecar.num_classes, seed=seed))
    written = {"sha256": sha256_of_file(path), "size_bytes": path.stat().st_size}
    write_json(sidecar_path(path), Sidecar(**{**vars(sidecar), **written}).to_dict())
    return path
