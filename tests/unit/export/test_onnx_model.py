"""The ONNX graph: whole, strict, and the same whatever the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from effnet_core.errors import CheckpointError
from effnet_core.export.onnx_model import IR_VERSION, OPSET, build_model, same_padding, write_onnx
from effnet_core.family.variants import VARIANTS
from effnet_core.weights import checkpoint as checkpoints
from tests.support.weights import make_checkpoint, make_sidecar, random_parameters

TINY = "efficientnet_tiny"
TINIES = [name for name, row in VARIANTS.items() if row.hidden and len(row.stages) > 1]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def images(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, 3, side, side)).astype(np.float32)


def test_what_the_graph_says_of_itself() -> None:
    sidecar = make_sidecar(TINY, class_names=("größe", "b", "c"), sha256="ab")
    model = build_model(random_parameters(TINY, 3), sidecar, features=True)
    assert (model.ir_version, model.opset_import[0].version) == (IR_VERSION, OPSET) == (8, 17)
    shapes = {
        item.name: [axis.dim_param or axis.dim_value for axis in item.type.tensor_type.shape.dim]
        for item in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, 32, 32],
        "logits": ["batch", 3],
        "features": ["batch", 32],
    }
    properties = {item.key: item.value for item in model.metadata_props}
    assert properties["variant"] == TINY
    assert json.loads(properties["class_names"]) == ["größe", "b", "c"]
    assert json.loads(properties["preprocess"])["image_size"] == 32
    assert properties["checkpoint_sha256"] == "ab"


def test_no_batchnorm_is_left() -> None:
    model = build_model(random_parameters(TINY, 3), make_sidecar(TINY))
    kinds = {node.op_type for node in model.graph.node}
    assert kinds == {"Conv", "Sigmoid", "Mul", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    assert [item.name for item in model.graph.output] == ["logits"]


def test_batchnorm_is_folded_exactly() -> None:
    parameters = random_parameters(TINY, 3)
    model = build_model(parameters, make_sidecar(TINY))
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    value = {
        part: parameters[f"stem.norm.{part}"].astype(np.float64)
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    }
    scale = value["gamma"] / np.sqrt(value["moving_variance"] + 1e-3)
    expected = parameters["stem.conv.weight"] * scale[:, None, None, None]
    np.testing.assert_array_equal(constants["stem.weight"], expected.astype(np.float32))
    bias = (value["beta"] - value["moving_mean"] * scale).astype(np.float32)
    np.testing.assert_array_equal(constants["stem.bias"], bias)


@pytest.mark.parametrize("variant", TINIES)
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_an_images_answer_does_not_depend_on_its_batch(variant: str, padding: str) -> None:
    sidecar = make_sidecar(variant, padding=padding)
    run = session(build_model(random_parameters(variant, 3), sidecar))
    batch = images(7, sidecar.preprocess.image_size)
    [whole] = run.run(None, {"images": batch})
    alone = np.concatenate([run.run(None, {"images": image[None]})[0] for image in batch])
    np.testing.assert_array_equal(whole, alone)
    assert whole.shape == (7, 3)
    assert whole.std(axis=0).min() > 1e-3  # images differ: the comparison says something


def test_features_are_the_classifiers_input() -> None:
    parameters = random_parameters(TINY, 3)
    run = session(build_model(parameters, make_sidecar(TINY), features=True))
    logits, features = run.run(["logits", "features"], {"images": images(5)})
    expected = features @ parameters["classifier.weight"].T + parameters["classifier.bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("changes", [{"padding": "same"}, {"bn_eps": 0.1}])
def test_padding_and_eps_come_from_the_sidecar(changes: dict[str, Any]) -> None:
    parameters, sidecar = random_parameters(TINY, 3), make_sidecar(TINY)
    answers = [
        session(build_model(parameters, replace(sidecar, **change))).run(
            None, {"images": images(2)}
        )[0]
        for change in ({}, changes)
    ]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "wanted"),
    [(224, 3, 2, (0, 1)), (225, 3, 2, (1, 1)), (112, 3, 1, (1, 1)), (56, 5, 2, (1, 2))],
)
def test_same_padding_is_tensorflows(
    side: int, kernel: int, stride: int, wanted: tuple[int, int]
) -> None:
    assert same_padding(side, kernel, stride) == wanted


def test_optimizer_state_is_left_out() -> None:
    parameters = random_parameters(TINY, 3)
    state = {"moment.stem.conv.weight": np.zeros(3), "global_step": np.array(7)}
    plain = build_model(parameters, make_sidecar(TINY))
    assert build_model({**parameters, **state}, make_sidecar(TINY)) == plain


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.pop("head.norm.beta"), "head.norm.beta is missing"),
        (lambda p: p.update(extra=np.zeros(3)), r"1 parameters left over \(extra\)"),
        (
            lambda p: p.update({"classifier.bias": np.zeros(4)}),
            r"has shape \(4,\), wanted is \(3,\)",
        ),
    ],
)
def test_other_parameters_are_refused(change: object, reason: str) -> None:
    parameters = random_parameters(TINY, 3)
    change(parameters)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=reason):
        build_model(parameters, make_sidecar(TINY))


def test_a_file_is_made_from_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = checkpoints.open_checkpoint(make_checkpoint(tmp_path / "model.ckpt"))
    sidecar = checkpoint.sidecar
    write_onnx(checkpoint, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    assert {"checkpoint_sha256": sidecar.sha256}.items() <= {
        item.key: item.value for item in model.metadata_props
    }.items()


@pytest.mark.parametrize(
    "variant", ["efficientnet_b0", "efficientnet_b3", "efficientnet_lite1", "efficientnet_v2_s"]
)
@pytest.mark.costly
def test_published_variants_run(variant: str) -> None:
    sidecar = make_sidecar(variant, image_size=64)
    run = session(build_model(random_parameters(variant, 3), sidecar))
    assert np.isfinite(run.run(None, {"images": images(2, 64)})[0]).all()


@pytest.mark.parametrize("variant", TINIES)
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_a_graph_for_any_size_answers_as_those_of_each_size(variant: str, padding: str) -> None:
    parameters, sidecar = random_parameters(variant, 3), make_sidecar(variant, padding=padding)
    free = session(build_model(parameters, sidecar, dynamic=True))
    assert free.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    for side in (32, 33, 65):
        spec = replace(sidecar.preprocess, image_size=side)
        fixed = session(build_model(parameters, replace(sidecar, preprocess=spec)))
        given = {"images": images(2, side)}
        np.testing.assert_allclose(
            free.run(["logits"], given)[0], fixed.run(["logits"], given)[0], rtol=1e-4, atol=1e-5
        )
