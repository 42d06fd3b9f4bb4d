"""An ONNX model that computes in 16 bits, from one of ``onnx_model``: for GPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SUFFIX = ".fp16"


def in_sixteen_bits(file: Path) -> bytes:
    """A model with pixels as its input, whose weights and inner values are float16.

    Pixels, 0 to 255, are exact in 16 bits. Outputs stay float32.
    """
    model = onnx.load(file)
    graph = model.graph
    for constant in graph.initializer:
        if constant.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(constant).astype(np.float16)
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = TensorProto.FLOAT16
        node.input[:] = [_inner(name, outputs) for name in node.input]
        node.output[:] = [_inner(name, outputs) for name in node.output]
    for name in sorted(outputs):
        graph.node.append(
            helper.make_node("Cast", [_inner(name, outputs)], [name], to=TensorProto.FLOAT)
        )
    content: bytes = model.SerializeToString()
    return content


def _inner(name: str, outputs: set[str]) -> str:
    return name + SUFFIX if name in outputs else name
