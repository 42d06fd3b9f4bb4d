"""An engine file in 8-bit integers, by ONNX Runtime (QDQ), and the same for OpenVINO."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from effnet_core.errors import ExportError


@dataclass(frozen=True)
class Way:
    """Which layers become int8."""

    kept: str
    """Those that stay in fp32, in words; empty for none."""
    kinds: tuple[str, ...] | None = None
    """Operators that become int8; all that can, when absent."""
    depthwise: bool = True
    ends: bool = True
    """Whether the first convolution and the classifier do, too."""
    gates: bool = True
    """Whether squeeze-excite does, too."""

    def excluded(self, model: onnx.ModelProto) -> list[str]:
        """Names of the nodes that stay."""
        return [node.name for node in model.graph.node if not self._takes(node)]

    def _takes(self, node: onnx.NodeProto) -> bool:
        name = node.name
        if not self.ends and name in ("stem", "logits"):
            return False
        if not self.gates and ".se." in name:
            return False
        return self.depthwise or not name.endswith(".depthwise")


WAYS = (
    Way(""),
    Way(
        "the first convolution, the classifier, squeeze-excite and activations",
        kinds=("Conv",),
        ends=False,
        gates=False,
    ),
    Way(
        "all but the 1x1 convolutions of blocks",
        kinds=("Conv",),
        depthwise=False,
        ends=False,
        gates=False,
    ),
)
"""From the fastest to the most careful."""


def write_int8(source: Path, target: Path, squares: Iterator[NDArray[Any]], way: Way) -> None:
    """Write an engine file in int8: weights per channel, activations by the ranges they take.

    Args:
        source: an engine file in fp32.
        target: the file to write.
        squares: pixels of training images, (N, S, S, 3) uint8 each, from which ranges are taken.
        way: which layers.

    Raises:
        ExportError: it cannot be done.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[Any]] | None:
            pixels = next(squares, None)
            return None if pixels is None else {"pixels": pixels}

    model = onnx.load(source)
    try:
        with _quiet():
            quantize_static(
                str(source),
                str(target),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(way.kinds) if way.kinds else None,
                nodes_to_exclude=way.excluded(model),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
    except Exception as cause:
        reason = " ".join(str(cause).split())
        raise ExportError(f"the network cannot be written in int8 ({reason})") from cause
    written = onnx.load(target)
    onnx.helper.set_model_props(
        written, {item.key: item.value for item in model.metadata_props} | {"int8": "QDQ"}
    )
    target.write_bytes(written.SerializeToString())


class _quiet:
    """Without the advice that the library gives to each of its users."""

    def __enter__(self) -> None:
        self.level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        self.warnings = warnings.catch_warnings()
        self.warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *error: Any) -> None:
        self.warnings.__exit__(*error)
        logging.root.setLevel(self.level)


def write_ir(source: Path, names: Sequence[Path]) -> bool:
    """Write an int8 file for OpenVINO too, as XML and weights; whether OpenVINO is there to do it.

    Raises:
        ExportError: it refuses the file.
    """
    try:
        import openvino
    except ImportError:
        return False
    try:
        openvino.save_model(
            openvino.Core().read_model(str(source)), str(names[0]), compress_to_fp16=False
        )
    except Exception as cause:
        reason = " ".join(str(cause).split())
        raise ExportError(f"OpenVINO cannot write the int8 network ({reason})") from cause
    return True
