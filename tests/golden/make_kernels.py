"""Rewrite kernels.npz. Run with a Python that has torch: python tests/golden/make_kernels.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from kernels import (
    DEPTHWISE,
    EPS,
    EXPANDED,
    GATES,
    MOMENTUM,
    NORM,
    POINTWISE,
    Expansion,
    Gate,
    Layer,
    write_answers,
)

ACTIVATE = {"none": lambda z: z, "silu": F.silu, "relu6": F.relu6}


def doubles(values: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        k: torch.tensor(v.astype(np.float64), requires_grad=k != "dy") for k, v in values.items()
    }


def padding(size: int, kernel: int, stride: int, same: bool) -> tuple[int, int]:
    if not same:
        return (kernel - 1) // 2, (kernel - 1) // 2
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def of_layer(case: Layer) -> dict[str, torch.Tensor]:
    t = doubles(case.inputs_of())
    pads = [
        *padding(case.width, case.kernel, case.stride, case.same),
        *padding(case.height, case.kernel, case.stride, case.same),
    ]
    groups = 1 if case.kind == "pointwise" else case.inputs
    convolved = F.conv2d(F.pad(t["x"], pads), t["weight"], stride=case.stride, groups=groups)
    u = t["x"] if case.kind == "norm" else convolved
    parameters = [
        name for name in ("weight", "gamma", "beta") if u is convolved or name != "weight"
    ]
    found = {}
    for mode in ("train", "infer"):
        mean, variance = t["mean"].detach().clone(), t["variance"].detach().clone()
        z = F.batch_norm(
            u, mean, variance, t["gamma"], t["beta"], mode == "train", 1 - MOMENTUM, EPS
        )
        y = ACTIVATE[case.activation](z)
        found[f"{mode}.y"] = y.detach()
        if mode == "train":
            found.update(mean=mean, variance=variance)
        elif not case.has_fixed_gradients:
            continue
        prefix = "d" if mode == "train" else "infer.d"
        names = ("x", *parameters)
        grads = torch.autograd.grad(y, [t[name] for name in names], t["dy"], retain_graph=True)
        found.update({f"{prefix}_{n}": g for n, g in zip(names, grads, strict=True)})
    return found


def trained(case: Layer, t: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The output; ``mean`` and ``variance`` of ``t`` become those after the step."""
    t["mean"], t["variance"] = t["mean"].detach().clone(), t["variance"].detach().clone()
    pads = [
        *padding(case.width, case.kernel, case.stride, case.same),
        *padding(case.height, case.kernel, case.stride, case.same),
    ]
    groups = case.inputs if case.kind == "depthwise" else 1
    u = F.conv2d(F.pad(x, pads), t["weight"], stride=case.stride, groups=groups)
    statistics = (t["mean"], t["variance"])
    z = F.batch_norm(u, *statistics, t["gamma"], t["beta"], True, 1 - MOMENTUM, EPS)
    return ACTIVATE[case.activation](z)


def of_expansion(case: Expansion) -> dict[str, torch.Tensor]:
    first, second = (doubles(values) for values in case.inputs_of())
    y = trained(case.second, second, trained(case.first, first, first["x"]))
    found = {"y": y.detach()}
    for number, t in ((1, first), (2, second)):
        names = ("weight", "gamma", "beta")
        grads = torch.autograd.grad(y, [t[name] for name in names], second["dy"], retain_graph=True)
        found.update({f"d_{n}{number}": g for n, g in zip(names, grads, strict=True)})
        found.update({f"{n}{number}": t[n] for n in ("mean", "variance")})
    return found | {"d_x": torch.autograd.grad(y, first["x"], second["dy"])[0]}


def of_gate(case: Gate) -> dict[str, torch.Tensor]:
    t = doubles(case.inputs_of())
    hidden = F.conv2d(t["x"].mean((2, 3), keepdim=True), t["reduce"], t["reduce_bias"])
    y = t["x"] * torch.sigmoid(F.conv2d(F.silu(hidden), t["expand"], t["expand_bias"]))
    names = [name for name in t if name != "dy"]
    grads = torch.autograd.grad(y, [t[name] for name in names], t["dy"])
    return {"y": y.detach(), **{f"d_{n}": g for n, g in zip(names, grads, strict=True)}}


def main() -> None:
    answers = {}
    for case in (*DEPTHWISE, *POINTWISE, *NORM):
        answers.update({f"{case.name}.{k}": v for k, v in of_layer(case).items()})
    for expansion in EXPANDED:
        answers.update({f"{expansion.name}.{k}": v for k, v in of_expansion(expansion).items()})
    for gate in GATES:
        answers.update({f"{gate.name}.{k}": v for k, v in of_gate(gate).items()})
    write_answers({k: v.numpy().astype(np.float32) for k, v in answers.items()})


main()
