"""The CPU kernels against torch's answers, and whether they answer the same twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden.kernels import (
    ACTIVATIONS,
    DEPTHWISE,
    EPS,
    EXPANDED,
    GATES,
    MOMENTUM,
    NORM,
    POINTWISE,
    Expansion,
    FloatArray,
    Gate,
    Layer,
    read_answers,
)
from tests.kernels.library import Library, built

TOLERANCE = 1e-5
"""Of the largest value of a tensor."""

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def library_path() -> Path:
    return built()


@pytest.fixture(scope="session")
def library(library_path: Path) -> Library:
    return Library(library_path)


@pytest.fixture(scope="session")
def answers() -> dict[str, FloatArray]:
    return read_answers()


def require_close(found: FloatArray, wanted: FloatArray, what: str) -> None:
    assert found.shape == wanted.shape, what
    worst = np.abs(found.astype(np.float64) - wanted).max() / np.abs(wanted).max()
    assert worst <= TOLERANCE, f"{what} is apart by {worst:.1e}"


def settings(case: Layer, *, batch_statistics: bool = True) -> FloatArray:
    act = ACTIVATIONS.index(case.activation)
    values = (EPS, MOMENTUM, act, case.stride, case.same, batch_statistics)
    return np.array(values, np.float32)


def run_layer(library: Library, case: Layer) -> dict[str, FloatArray]:
    """All that a layer's operators compute, under the names of the file."""
    t = case.inputs_of()
    out, channel = case.out_shape, (case.outputs,)
    parameters = ["gamma", "beta"] if case.kind == "norm" else ["weight", "gamma", "beta"]
    given = [t["x"], *(t[name] for name in parameters)]
    statistics = [t["mean"], t["variance"]]
    keeps = [out] if case.kind == "pointwise" else []
    y, *convolved, mean, rstd, new_mean, new_variance = library.call(
        f"{case.kind}_train",
        [*given, *statistics, settings(case)],
        [out, *keeps, channel, channel, channel, channel],
    )
    fixed = library.call(f"{case.kind}_infer", [*given, *statistics, settings(case)], [out])
    found = {"train.y": y, "infer.y": fixed[0], "mean": new_mean, "variance": new_variance}

    def gradients(prefix: str, mean: FloatArray, rstd: FloatArray, *, batch: bool) -> None:
        made = library.call(
            f"{case.kind}_backward",
            [*given, mean, rstd, *convolved, t["dy"], settings(case, batch_statistics=batch)],
            [array.shape for array in given],
        )
        for name, array in zip(("x", *parameters), made, strict=True):
            found[f"{prefix}_{name}"] = array

    gradients("d", mean, rstd, batch=True)
    if not case.has_fixed_gradients:
        return found
    fixed_rstd = 1 / np.sqrt(t["variance"].astype(np.float64) + EPS)
    gradients("infer.d", t["mean"], fixed_rstd.astype(np.float32), batch=False)
    return found


@pytest.mark.parametrize("case", [*DEPTHWISE, *POINTWISE, *NORM], ids=lambda case: case.name)
def test_a_layer_computes_what_torch_does(
    library: Library, answers: dict[str, FloatArray], case: Layer
) -> None:
    found = run_layer(library, case)
    assert {f"{case.name}.{name}" for name in found} == {
        name for name in answers if name.startswith(f"{case.name}.")
    }
    for name, array in found.items():
        require_close(array, answers[f"{case.name}.{name}"], name)


def run_expansion(library: Library, case: Expansion) -> dict[str, FloatArray]:
    first, second = case.inputs_of()
    inner, channel = case.first.out_shape, (case.first.outputs,)
    names, statistics = ("weight", "gamma", "beta"), ("mean", "variance")
    layers = [[t[name] for name in names] for t in (first, second)]
    old = [[t[name] for name in statistics] for t in (first, second)]
    y, u, *made = library.call(
        "expanded_train",
        [first["x"], *layers[0], *old[0], *layers[1], *old[1], settings(case.second)],
        [case.second.out_shape, inner, *[channel] * 8],
    )
    given = [first["x"], *layers[0], *layers[1]]
    kept = [made[0], made[1], made[4], made[5]]
    d_x, *grads, _ = library.call(
        "expanded_backward",
        [*given, *kept, u, second["dy"], settings(case.second)],
        [*(array.shape for array in given), inner],
    )
    found = {"y": y, "d_x": d_x}
    for number in (1, 2):
        own, new = grads[3 * number - 3 :], made[4 * number - 2 :]
        found |= {f"d_{name}{number}": array for name, array in zip(names, own, strict=False)}
        found |= {f"{name}{number}": array for name, array in zip(statistics, new, strict=False)}
    return found


@pytest.mark.parametrize("case", EXPANDED, ids=lambda case: case.name)
def test_an_expansion_and_its_depthwise_layer_compute_what_torch_does(
    library: Library, answers: dict[str, FloatArray], case: Expansion
) -> None:
    found = run_expansion(library, case)
    assert len(found) == 12
    for name, array in found.items():
        require_close(array, answers[f"{case.name}.{name}"], name)


def run_gate(library: Library, case: Gate) -> dict[str, FloatArray]:
    t = case.inputs_of()
    x, n, c, s = t["x"], case.images, case.channels, case.squeezed
    parameters = [t["reduce"], t["reduce_bias"], t["expand"], t["expand_bias"]]
    y, means, hidden, gates = library.call(
        "squeeze_excite", [x, *parameters], [x.shape, (n, c), (n, s), (n, c)]
    )
    grads = library.call(
        "squeeze_excite_backward",
        [x, t["reduce"], t["expand"], means, hidden, gates, t["dy"]],
        [x.shape, *(array.shape for array in parameters)],
    )
    names = ("d_x", "d_reduce", "d_reduce_bias", "d_expand", "d_expand_bias")
    return {"y": y, **dict(zip(names, grads, strict=True))}


@pytest.mark.parametrize("case", GATES, ids=lambda case: case.name)
def test_squeeze_excite_computes_what_torch_does(
    library: Library, answers: dict[str, FloatArray], case: Gate
) -> None:
    for name, found in run_gate(library, case).items():
        require_close(found, answers[f"{case.name}.{name}"], name)


@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 1, 1, 1), (3, 17, 33, 5)])
def test_the_global_mean_and_its_gradient(library: Library, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    mean = library.call("global_mean", [x], [shape[:2]])[0]
    require_close(mean, x.astype(np.float64).mean((2, 3)), "mean")
    grad = library.call("global_mean_backward", [x, mean], [shape])[0]
    pixels = shape[2] * shape[3]
    require_close(grad, np.broadcast_to(mean[:, :, None, None] / pixels, shape), "gradient")


def test_batch_norm_alone_and_far_from_zero(library: Library) -> None:
    """Values of 1000 +- 1, whose variance a sum of squares in single precision would lose."""
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((4, 3, 33, 31))).astype(np.float32)
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    plain = np.array([EPS, MOMENTUM, 0, 1, 0, 1], np.float32)
    y, _, rstd, _, new_variance = library.call(
        "norm_train", [x, one, zero, zero, one, plain], [x.shape, (3,), (3,), (3,), (3,)]
    )
    exact = x.astype(np.float64)
    variance = exact.var((0, 2, 3))
    require_close(rstd, 1 / np.sqrt(variance + EPS), "1 / deviation")
    unbiased = exact.var((0, 2, 3), ddof=1)
    require_close(new_variance, MOMENTUM + (1 - MOMENTUM) * unbiased, "variance")
    wanted = (exact - exact.mean((0, 2, 3), keepdims=True)) * rstd[:, None, None]
    assert np.abs(y - wanted).max() < 1e-4  # 1000 itself is known to 6e-5


def test_not_a_number_comes_out_again(library: Library) -> None:
    """Training must see that it diverged."""
    case = DEPTHWISE[2]
    t = case.inputs_of()
    t["x"][0, 0, 0, 0] = np.nan
    given = [t[name] for name in ("x", "weight", "gamma", "beta", "mean", "variance")]
    shapes = [case.out_shape, *[(case.outputs,)] * 4]
    y = library.call("depthwise_train", [*given, settings(case)], shapes)[0]
    assert np.isnan(y[:, 0]).all()
    assert np.isfinite(y[:, 1:]).all()


DIGESTS = """
import hashlib, os, sys
cores = int(sys.argv[2])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from pathlib import Path
from tests.golden.kernels import DEPTHWISE, EXPANDED, GATES, Expansion, Layer
from tests.kernels.library import Library
from tests.unit.kernels.test_library import run_expansion, run_gate, run_layer
library = Library(Path(sys.argv[1]))
wide = Layer("pointwise", 4, 24, 40, 30, 31)
deep = Layer("depthwise", 4, 40, 40, 30, 31, 5, 2)
runs = {Layer: run_layer, Expansion: run_expansion, type(GATES[0]): run_gate}
for case in (DEPTHWISE[9], deep, wide, GATES[0], Expansion(wide, deep)):
    run = runs[type(case)]
    for name, array in run(library, case).items():
        print(type(case).__name__, case.name, name, hashlib.sha256(array.tobytes()).hexdigest())
"""


def digests(library_path: Path, cores: int) -> list[str]:
    """Of everything that some operators compute in a process that has so many cores."""
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS, str(library_path), str(cores)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.costly
def test_the_same_bits_every_time_and_almost_all_on_any_number_of_threads(
    library_path: Path,
) -> None:
    """Only weight gradients of 1x1 convolutions are summed by ranges, one a thread."""
    cores = len(os.sched_getaffinity(0))
    first = digests(library_path, cores)
    assert digests(library_path, cores) == first
    changed = set(first) ^ set(digests(library_path, 1))
    assert {line.split()[2] for line in changed} <= {"d_weight", "infer.d_weight", "d_weight1"}
    assert all(line.split()[1].startswith(("pointwise", "expanded")) for line in changed)
