"""Cases of the CPU kernels: inputs drawn from a seed, and what must come out, in files beside this.

``make_kernels.py`` computes the answers with torch in double precision; tests only read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ANSWERS = Path(__file__).parent / "kernels.npz"
EPS, MOMENTUM = 1e-3, 0.9
ACTIVATIONS = ("none", "silu", "relu6")


def write_answers(answers: dict[str, FloatArray]) -> None:
    """All in one vector: as members of their own they would take twice the room."""
    np.savez_compressed(
        ANSWERS,
        names=np.array(list(answers)),
        shapes=np.array(["x".join(map(str, a.shape)) for a in answers.values()]),
        values=np.concatenate([array.ravel() for array in answers.values()]),
    )


def read_answers() -> dict[str, FloatArray]:
    """What ``write_answers`` was given."""
    answers, start = {}, 0
    with np.load(ANSWERS) as file:
        values = file["values"]
        for name, text in zip(file["names"], file["shapes"], strict=True):
            shape = tuple(map(int, str(text).split("x")))
            end = start + int(np.prod(shape))
            answers[str(name)] = values[start:end].reshape(shape)
            start = end
    return answers


@dataclass(frozen=True)
class Layer:
    """A convolution with BatchNorm and activation; of kind ``norm``, the last two alone."""

    kind: str
    images: int
    inputs: int
    outputs: int
    height: int
    width: int
    kernel: int = 1
    stride: int = 1
    same: bool = False
    activation: str = "silu"

    @property
    def name(self) -> str:
        """A key of the file."""
        padding = "same" if self.same else "symmetric"
        return (
            f"{self.kind}-{self.images}x{self.inputs}-{self.outputs}x{self.height}x{self.width}"
            f"-k{self.kernel}-s{self.stride}-{padding}-{self.activation}"
        )

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Either padding gives ceil(size / stride)."""
        height, width = -(-self.height // self.stride), -(-self.width // self.stride)
        return self.images, self.outputs, height, width

    @property
    def has_fixed_gradients(self) -> bool:
        """Whether the file has gradients by running statistics too; only of small cases, to stay small."""
        return self.images * self.height * self.width < (50 if self.kind == "depthwise" else 130)

    def inputs_of(self) -> dict[str, FloatArray]:
        """x, weight, gamma, beta, mean, variance and dy."""
        rng = np.random.default_rng(sum(map(ord, self.name)))
        group = self.inputs if self.kind == "pointwise" else 1

        def normal(*shape: int) -> FloatArray:
            return rng.standard_normal(shape).astype(np.float32)

        return {
            "x": normal(self.images, self.inputs, self.height, self.width) + np.float32(0.3),
            "weight": normal(self.outputs, group, self.kernel, self.kernel) * np.float32(0.3),
            "gamma": 1 + np.float32(0.3) * normal(self.outputs),
            "beta": normal(self.outputs),
            "mean": np.float32(0.1) * normal(self.outputs),
            "variance": 1 + rng.random(self.outputs).astype(np.float32),
            "dy": normal(*self.out_shape),
        }


@dataclass(frozen=True)
class Expansion:
    """A 1x1 layer and the depthwise layer after it, each with BatchNorm and activation."""

    first: Layer
    second: Layer

    @property
    def name(self) -> str:
        """A key of the file."""
        return f"expanded-{self.second.name}"

    def inputs_of(self) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """Those of either layer; the second's x and the first's dy come from the other one."""
        return self.first.inputs_of(), self.second.inputs_of()


def _expansion(
    images: int, inputs: int, outputs: int, height: int, width: int, **how: Any
) -> Expansion:
    act = how["activation"]
    return Expansion(
        Layer("pointwise", images, inputs, outputs, height, width, activation=act),
        Layer("depthwise", images, outputs, outputs, height, width, **how),
    )


@dataclass(frozen=True)
class Gate:
    """Squeeze-excite."""

    images: int
    channels: int
    squeezed: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """A key of the file."""
        return f"gate-{self.images}x{self.channels}-{self.squeezed}x{self.height}x{self.width}"

    def inputs_of(self) -> dict[str, FloatArray]:
        """x, the weights and biases, and dy."""
        rng = np.random.default_rng(sum(map(ord, self.name)))

        def normal(*shape: int) -> FloatArray:
            return rng.standard_normal(shape).astype(np.float32)

        shape = (self.images, self.channels, self.height, self.width)
        return {
            "x": normal(*shape),
            "reduce": normal(self.squeezed, self.channels, 1, 1) / np.float32(3),
            "reduce_bias": normal(self.squeezed),
            "expand": normal(self.channels, self.squeezed, 1, 1),
            "expand_bias": normal(self.channels),
            "dy": normal(*shape),
        }


# Channels are no multiple of a vector's lanes anywhere.
SIZES = ((2, 7, 7), (1, 14, 9), (1, 15, 33), (2, 5, 20), (3, 2, 3))  # images, height, width
DEPTHWISE = [
    Layer("depthwise", n, 3, 3, height, width, kernel, stride, same, ACTIVATIONS[index % 3])
    for index, (n, height, width) in enumerate(SIZES)
    for kernel in (3, 5)
    for stride in (1, 2)
    for same in (False, True)
]
POINTWISE = [
    Layer("pointwise", 2, 3, 5, 7, 7, activation="silu"),
    Layer("pointwise", 1, 17, 33, 9, 14, activation="none"),
    Layer("pointwise", 5, 40, 24, 3, 5, activation="relu6"),
    Layer("pointwise", 9, 16, 29, 1, 1, activation="silu"),
]
NORM = [
    Layer("norm", 2, 5, 5, 7, 9, activation="silu"),
    Layer("norm", 1, 3, 3, 5, 33, activation="none"),
    Layer("norm", 3, 9, 9, 1, 2, activation="relu6"),
]
EXPANDED = [
    _expansion(2, 3, 5, 7, 9, kernel=3, activation="silu"),
    _expansion(1, 5, 17, 9, 8, kernel=5, stride=2, same=True, activation="silu"),
    _expansion(3, 4, 7, 5, 6, kernel=3, stride=2, activation="relu6"),
    _expansion(1, 6, 7, 11, 3, kernel=5, activation="none"),
]
GATES = [Gate(2, 19, 5, 7, 9), Gate(1, 5, 1, 1, 1), Gate(3, 8, 2, 15, 33)]
