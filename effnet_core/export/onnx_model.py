"""A checkpoint as an ONNX graph, built from its numbers alone, without MindSpore.

Every BatchNorm is folded into the convolution before it, in float64, so the graph is convolutions,
activations, squeeze-excite and one dense layer. The batch is a free dimension of input and outputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from effnet_core import __version__
from effnet_core.errors import CheckpointError
from effnet_core.family.scaling import Block, expand
from effnet_core.family.variants import variant as variant_row
from effnet_core.weights.checkpoint import OPTIMIZER_PREFIXES, Checkpoint, Sidecar, calibrated

Array = NDArray[Any]

OPSET = 17
IR_VERSION = 8
INPUT = "images"
PIXELS = "pixels"
LOGITS = "logits"
FEATURES = "features"
MAPS = "maps"

GRAPH_VERSION = 2
"""Raised with every change of the graph, so that engines cached from an older one are made anew."""


def write_onnx(
    checkpoint: Checkpoint,
    out: Path,
    *,
    features: bool = False,
    pixels: bool = False,
    dynamic: bool = False,
) -> None:
    """Write a checkpoint as an ONNX file.

    Args:
        checkpoint: the model.
        out: the file.
        features: also give the pooled features, a second output.
        pixels: take squares of pixels and normalise them inside; see ``build_model``.
        dynamic: take images of any height and width.

    Raises:
        CheckpointError: the checkpoint does not hold exactly the parameters of its variant.
    """
    sidecar = checkpoint.sidecar
    parameters = calibrated(checkpoint.load(), sidecar.temperature)
    model = build_model(parameters, sidecar, features=features, pixels=pixels, dynamic=dynamic)
    out.write_bytes(model.SerializeToString())


def build_model(
    parameters: Mapping[str, Array],
    sidecar: Sidecar,
    *,
    features: bool = False,
    pixels: bool = False,
    maps: bool = False,
    dynamic: bool = False,
) -> onnx.ModelProto:
    """The graph of a network.

    Input ``images`` is (batch, 3, S, S) float32, normalised as the metadata's ``preprocess`` says, or
    ``pixels`` is (batch, S, S, 3) uint8 and the graph normalises it: the mean is subtracted, the
    deviation is in the first convolution. Output ``logits`` is (batch, num_classes), and ``features``,
    where asked for, (batch, head).

    Args:
        parameters: by name; optimizer state may be among them, nothing else that is left over.
        sidecar: variant, classes, preprocessing and digest.
        features: whether to have the second output.
        pixels: whether the input is pixels.
        maps: whether to have the output ``maps``, (batch, head, h, w): the features of each place, whose
            mean the classifier sees.
        dynamic: whether height and width of the input are free, too.

    Raises:
        CheckpointError: a parameter is missing, left over or of another shape.
    """
    row = variant_row(sidecar.variant)
    architecture = expand(row)
    graph = _Graph(parameters, sidecar, row.activation, dynamic=dynamic)
    x, deviation = graph.subtract_mean() if pixels else (INPUT, None)
    x = graph.conv_norm(
        x, "stem", 3, architecture.stem_channels, kernel=3, stride=2, deviation=deviation
    )
    for index, block in enumerate(architecture.blocks):
        x = graph.block(x, f"blocks.{index}", block)
    last, head = architecture.blocks[-1].out_channels, architecture.head_channels
    x = graph.conv_norm(x, "head", last, head)
    if maps:
        graph.op("Identity", x, name=MAPS)
    side = graph.side
    x = graph.op("GlobalAveragePool", x)  # (N, head, 1, 1)
    x = graph.op("Flatten", x, name=FEATURES, axis=1)  # (N, head)
    graph.dense(x, "classifier", head, sidecar.num_classes, name=LOGITS)
    graph.require_all_used()
    outputs = {
        LOGITS: [sidecar.num_classes],
        **({FEATURES: [head]} if features else {}),
        **({MAPS: [head, side, side]} if maps else {}),
    }
    return graph.finish(outputs, pixels=pixels)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding before and after an axis of ``side`` px: the odd pixel goes after."""
    total = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
    return total // 2, total - total // 2


class _Graph:
    """Nodes and constants as they come; takes parameters by name and knows which are left."""

    def __init__(
        self,
        parameters: Mapping[str, Array],
        sidecar: Sidecar,
        activation: str,
        *,
        dynamic: bool = False,
    ) -> None:
        self.left = {
            name: value
            for name, value in parameters.items()
            if not name.startswith(OPTIMIZER_PREFIXES)
        }
        self.sidecar = sidecar
        self.activation = activation
        self.dynamic = dynamic
        self.side = sidecar.preprocess.image_size
        """Height and width where the graph ends so far."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def take(self, name: str, shape: Sequence[int]) -> Array:
        """A parameter, in float64."""
        if name not in self.left:
            raise CheckpointError(f"the checkpoint is of another model: {name} is missing")
        value = self.left.pop(name)
        if value.shape != tuple(shape):
            raise CheckpointError(
                f"the checkpoint is of another model: {name} has shape {value.shape}, "
                f"wanted is {tuple(shape)}"
            )
        return value.astype(np.float64)

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """Add a float32 constant; returns its name."""
        self.constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def subtract_mean(self) -> tuple[str, Array]:
        """Pixels as (N, 3, S, S) around zero, and the deviation of each channel, still to divide by."""
        spec = self.sidecar.preprocess
        x = self.op("Transpose", PIXELS, perm=[0, 3, 1, 2])
        x = self.op("Cast", x, to=TensorProto.FLOAT)
        mean = self.constant("mean", 255.0 * np.array(spec.mean).reshape(1, 3, 1, 1))
        return self.op("Sub", x, mean), 255.0 * np.array(spec.std)

    def conv_norm(
        self,
        x: str,
        name: str,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
        deviation: Array | None = None,
    ) -> str:
        """Convolution with its BatchNorm and the input's deviation folded in, and the activation."""
        shape = (out_channels, in_channels // groups, kernel, kernel)
        weight = self.take(f"{name}.conv.weight", shape)
        if deviation is not None:
            weight = weight / deviation[None, :, None, None]
        gamma, beta, mean, variance = (
            self.take(f"{name}.norm.{part}", [out_channels])
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / np.sqrt(variance + self.sidecar.bn_eps)
        padding = self.padding(kernel, stride)
        self.side = math.ceil(self.side / stride)
        x = self.op(
            "Conv",
            x,
            self.constant(f"{name}.weight", weight * scale[:, None, None, None]),
            self.constant(f"{name}.bias", beta - mean * scale),
            name=name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            group=groups,
            **padding,
        )
        return self.activate(x) if activate else x

    def padding(self, kernel: int, stride: int) -> dict[str, Any]:
        """A convolution's attributes of its padding."""
        before = after = (kernel - 1) // 2
        if self.sidecar.padding == "same":
            if self.dynamic:  # as much as the input needs, the odd pixel after it
                return {"auto_pad": "SAME_UPPER"}
            before, after = same_padding(self.side, kernel, stride)
        return {"pads": [before, before, after, after]}

    def activate(self, x: str) -> str:
        """The activation of the variant."""
        if self.activation == "silu":
            return self.silu(x)
        return self.op("Clip", x, "zero", "six")  # ReLU6

    def silu(self, x: str) -> str:
        """``x * sigmoid(x)``."""
        return self.op("Mul", x, self.op("Sigmoid", x))

    def block(self, x: str, name: str, block: Block) -> str:
        """One inverted-residual block, of either kind."""
        hidden, out = block.hidden_channels, block.out_channels
        kernel, stride = block.kernel, block.stride
        y = x
        if block.op == "fused":
            wide = hidden if block.expands else out
            y = self.conv_norm(
                y, f"{name}.fused", block.in_channels, wide, kernel=kernel, stride=stride
            )
        else:
            if block.expands:
                y = self.conv_norm(y, f"{name}.expand", block.in_channels, hidden)
            y = self.conv_norm(
                y,
                f"{name}.depthwise",
                hidden,
                hidden,
                kernel=kernel,
                stride=stride,
                groups=hidden,
            )
            if block.squeeze_channels:
                y = self.squeeze_excite(y, f"{name}.se", hidden, block.squeeze_channels)
        if block.op == "mb" or block.expands:
            y = self.conv_norm(y, f"{name}.project", hidden, out, activate=False)
        return self.op("Add", y, x) if block.residual else y

    def squeeze_excite(self, x: str, name: str, channels: int, squeezed: int) -> str:
        """Channels scaled by a gate computed from their means."""
        gate = self.op("GlobalAveragePool", x)  # (N, channels, 1, 1)
        gate = self.silu(self.conv(gate, f"{name}.reduce", channels, squeezed))
        gate = self.op("Sigmoid", self.conv(gate, f"{name}.expand", squeezed, channels))
        return self.op("Mul", x, gate)

    def conv(self, x: str, name: str, in_channels: int, out_channels: int) -> str:
        """1x1 convolution with its bias."""
        weight = self.take(f"{name}.weight", (out_channels, in_channels, 1, 1))
        bias = self.take(f"{name}.bias", [out_channels])
        return self.op(
            "Conv",
            x,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", bias),
            name=name,
            kernel_shape=[1, 1],
        )

    def dense(self, x: str, kind: str, inputs: int, outputs: int, *, name: str) -> str:
        """The classifier."""
        weight = self.constant(f"{kind}.weight", self.take(f"{kind}.weight", (outputs, inputs)))
        bias = self.constant(f"{kind}.bias", self.take(f"{kind}.bias", [outputs]))
        return self.op("Gemm", x, weight, bias, name=name, transB=1)

    def require_all_used(self) -> None:
        """Refuse parameters that nothing took."""
        if self.left:
            names = ", ".join(sorted(self.left)[:10])
            raise CheckpointError(
                f"the checkpoint is of another model: {len(self.left)} parameters left over ({names})"
            )

    def finish(self, outputs: Mapping[str, list[int]], *, pixels: bool) -> onnx.ModelProto:
        """The whole model, with its metadata, after ONNX's own checks."""
        side = self.sidecar.preprocess.image_size
        sides = ["height", "width"] if self.dynamic else [side, side]
        given = (
            helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", *sides, 3])
            if pixels
            else helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, *sides])
        )
        if self.activation == "relu6":
            self.constant("zero", np.array(0.0))
            self.constant("six", np.array(6.0))
        graph = helper.make_graph(
            self.nodes,
            self.sidecar.variant,
            [given],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
                for name, shape in outputs.items()
            ],
            self.constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="effnet-flows",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata(self.sidecar))
        onnx.checker.check_model(model, full_check=True)
        return model


def metadata(sidecar: Sidecar) -> dict[str, str]:
    """What a file says of its model, in whatever format: all that its user must know.

    The logits of the file are divided by ``temperature`` already.
    """
    return {
        "variant": sidecar.variant,
        "class_names": json.dumps(sidecar.class_names, ensure_ascii=False),
        "preprocess": json.dumps(sidecar.preprocess.to_dict()),
        "checkpoint_sha256": sidecar.sha256,
        "temperature": f"{sidecar.temperature:g}",
    }
