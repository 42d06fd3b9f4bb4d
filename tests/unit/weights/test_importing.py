"""Weights of every layout are recognised, renamed both ways, and refused where anything is amiss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from effnet_core.data import imagenet
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import CheckpointError, ConfigError
from effnet_core.family.scaling import cost
from effnet_core.family.variants import VARIANTS, variant
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.ckpt_file import read_ckpt, write_ckpt
from effnet_core.weights.containers import read_safetensors, write_safetensors
from effnet_core.weights.importing import convert, import_weights
from effnet_core.weights.layouts import LAYOUTS, family, shapes
from effnet_core.weights.torch_pickle import Malformed
from tests.golden import recipe

TINY = {"b": "efficientnet_tiny", "lite": "efficientnet_tiny_lite", "v2": "efficientnet_tiny_v2"}
PAIRS = [(layout.name, TINY[branch]) for layout in LAYOUTS.values() for branch in layout.families]


def foreign(layout: str, name: str, *, num_classes: int = 1000) -> dict[str, np.ndarray]:
    names = LAYOUTS[layout].names(variant(name))
    return recipe.draw_all(
        {names[own]: shape for own, shape in shapes(variant(name), num_classes=num_classes).items()}
    )


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    (write_ckpt if path.suffix == ".ckpt" else write_safetensors)(path, arrays)
    return path


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_add_up_to_the_parameters_of_the_table(name: str) -> None:
    sizes = shapes(variant(name), num_classes=1000)
    trainable = sum(int(np.prod(s)) for key, s in sizes.items() if ".moving_" not in key)
    assert trainable == cost(variant(name)).parameters


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_are_unique_for_every_variant(layout: str) -> None:
    for row in VARIANTS.values():
        if family(row) in LAYOUTS[layout].families:
            names = LAYOUTS[layout].names(row)
            assert len(set(names.values())) == len(names)
            assert set(names) == set(shapes(row, num_classes=10))


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_there_and_back(layout: str, name: str, tmp_path: Path) -> None:
    arrays = foreign(layout, name, num_classes=7)
    source = write(tmp_path / "tf_efficientnet.ckpt", arrays)
    explicit = layout if layout == "timm" else None
    result = import_weights(source, tmp_path / "own.ckpt", layout=explicit)
    assert (result.layout, result.container) == (layout, "MindSpore .ckpt")
    sidecar = checkpoints.open_checkpoint(result.checkpoint).sidecar
    assert sidecar == result.sidecar
    assert sidecar.variant == name
    assert sidecar.class_names == tuple("0123456")
    assert sidecar.bn_eps == LAYOUTS[layout].eps(variant(name))
    assert sidecar.padding == LAYOUTS[layout].padding
    stored = read_ckpt(result.checkpoint)
    for own, other in LAYOUTS[layout].names(variant(name)).items():
        assert np.array_equal(stored[own], arrays[other]), own
    back = tmp_path / "back.safetensors"
    converted = convert(checkpoints.open_checkpoint(result.checkpoint), back, to=layout)
    assert converted.differences == ()
    found = read_safetensors(back)
    counters = {key for key in found if key.endswith("num_batches_tracked")}
    norms = [key for key in arrays if key.endswith("running_var")]
    assert len(counters) == len(norms)
    assert found.keys() - counters == arrays.keys()
    assert all(np.array_equal(found[key], value) for key, value in arrays.items())


def test_mindvisions_names_are_those_of_its_own_class() -> None:
    """As listed from MindVision's network (311 parameters for B0)."""
    names = LAYOUTS["mindvision"].names(variant("efficientnet_b0"))
    values = set(names.values())
    assert len(values) == 311
    assert {
        "backbone.features.0.features.0.weight",
        "backbone.features.0.features.1.moving_variance",
        "backbone.features.1.0.block.0.features.0.weight",
        "backbone.features.1.0.block.1.conv_reduce.bias",
        "backbone.features.1.0.block.2.features.1.gamma",
        "backbone.features.2.1.block.3.features.0.weight",
        "backbone.features.7.0.block.2.conv_expand.weight",
        "backbone.features.8.features.1.beta",
        "head.dense.weight",
        "head.dense.bias",
    } <= values
    assert LAYOUTS["mindvision"].eps(variant("efficientnet_b4")) == 1e-5
    assert LAYOUTS["mindvision"].eps(variant("efficientnet_b5")) == 1e-3


@pytest.mark.parametrize("number", range(8))
def test_mindvisions_preprocessing(number: int) -> None:
    """Resize(side + 32) of default_transform in its classification/dataset/imagenet.py, bilinear."""
    row = variant(f"efficientnet_b{number}")
    spec = LAYOUTS["mindvision"].spec(row)
    assert (spec.image_size, spec.resize_size) == (row.image_size, row.image_size + 32)
    assert (spec.interpolation, spec.mean) == ("bilinear", (0.485, 0.456, 0.406))


def test_mindcvs_names() -> None:
    values = set(LAYOUTS["mindcv"].names(variant("efficientnet_b0")).values())
    assert {
        "features.0.weight",
        "features.1.moving_mean",
        "features.3.0.block.0.weight",
        "features.3.0.block.3.conv_reduce.weight",
        "features.3.0.block.5.gamma",
        "features.4.0.block.8.beta",
        "features.10.weight",
        "features.11.gamma",
        "mlp_head.bias",
    } <= values


@pytest.mark.parametrize(
    ("name", "size", "resize"),
    [
        ("efficientnet_b0", 224, 256),
        ("efficientnet_b1", 240, 256),
        ("efficientnet_b2", 288, 288),
        ("efficientnet_b3", 300, 320),
        ("efficientnet_b4", 380, 384),
        ("efficientnet_v2_s", 384, 384),
    ],
)
def test_torchvisions_sizes(name: str, size: int, resize: int) -> None:
    spec = LAYOUTS["torchvision"].spec(variant(name))
    assert (spec.image_size, spec.resize_size) == (size, resize)


def test_imagenets_classes_are_known(tmp_path: Path) -> None:
    source = write(tmp_path / "x.ckpt", foreign("mindvision", "efficientnet_tiny"))
    result = import_weights(source, tmp_path / "own.ckpt")
    assert result.sidecar.class_names == imagenet.wordnet_ids()
    assert "1000 classes" in result.describe()
    assert isinstance(result.sidecar.preprocess, PreprocessSpec)


# --- what is refused -----------------------------------------------------------------------------


def refusal(path: Path, **options: object) -> str:
    out = path.with_name("out.ckpt")
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        import_weights(path, out, **options)
    assert not out.exists()
    assert not out.with_suffix(".json").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrong_variant_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", foreign("torchvision", "efficientnet_tiny"))
    message = refusal(path, variant="efficientnet_b1")
    assert "are efficientnet_tiny, not the efficientnet_b1 that was asked for" in message


def test_missing_and_left_over_are_listed(tmp_path: Path) -> None:
    arrays = foreign("torchvision", "efficientnet_tiny")
    gone = [key for key in arrays if key.startswith("features.1.")]
    for key in gone:
        del arrays[key]
    arrays["extra.weight"] = np.zeros(3, np.float32)
    arrays["features.0.1.bias"] = np.zeros(9, np.float32)
    message = refusal(write(tmp_path / "x.safetensors", arrays), variant="efficientnet_tiny")
    assert f"{len(gone)} missing (features.1." in message
    assert ", ...)" in message
    assert message.count("features.1.") == 10
    assert "1 left over (extra.weight)" in message
    assert "1 of another shape (features.0.1.bias (9,) for (8,))" in message


def test_something_else_entirely(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"fc.weight": np.zeros((2, 2), np.float32)})
    assert "hold 1 tensors that are not a variant of the family" in refusal(path)


def test_timms_two_kinds_are_told_apart_by_name_or_word(tmp_path: Path) -> None:
    arrays = foreign("timm", "efficientnet_tiny")
    path = write(tmp_path / "model.safetensors", arrays)
    assert (
        "as timm or timm-tf, which pad and normalise differently; say which (--layout)"
        in refusal(path)
    )
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "tf_efficientnet_b0"}))
    assert import_weights(path, tmp_path / "a.ckpt").layout == "timm-tf"
    (tmp_path / "config.json").write_text("[]")
    assert import_weights(path, tmp_path / "b.ckpt", layout="timm").layout == "timm"
    named = write(tmp_path / "efficientnet_b0_ra-3dd342df.safetensors", arrays)
    assert import_weights(named, tmp_path / "c.ckpt").layout == "timm"
    hint = "/timm/tf_efficientnet_b0.in1k/model.safetensors"
    assert import_weights(path, tmp_path / "d.ckpt", hint=hint).layout == "timm-tf"


def test_unknown_words_name_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ckpt", foreign("mindvision", "efficientnet_tiny"))
    assert "did you mean 'mindvision'?" in refusal(path, layout="mindvison")
    assert "did you mean 'efficientnet_b0'?" in refusal(path, variant="eficientnet_b0")
    (tmp_path / "lite.ckpt").write_bytes(path.read_bytes())
    message = refusal(tmp_path / "lite.ckpt", layout="mindvision", variant="efficientnet_lite0")
    assert "are efficientnet_tiny, not the efficientnet_lite0" in message


# --- heads and conversion ------------------------------------------------------------------------


def test_another_number_of_classes_starts_a_new_head_only_where_asked(tmp_path: Path) -> None:
    arrays = foreign("torchvision", "efficientnet_tiny")
    path = write(tmp_path / "x.safetensors", arrays)
    result = import_weights(path, tmp_path / "own.ckpt", num_classes=3)
    assert result.new_head
    assert "its head of 1000 classes was replaced by a new, untrained one of 3" in result.describe()
    stored = read_ckpt(result.checkpoint)
    assert stored["classifier.weight"].shape == (3, 32)
    assert not stored["classifier.bias"].any()
    assert 0.2 < np.abs(stored["classifier.weight"]).max() <= 3**-0.5
    assert np.array_equal(stored["stem.conv.weight"], arrays["features.0.0.weight"])
    same = import_weights(path, tmp_path / "same.ckpt", num_classes=1000)
    assert not same.new_head


def test_class_names_travel(tmp_path: Path) -> None:
    path = write(tmp_path / "x.ckpt", foreign("mindvision", "efficientnet_tiny", num_classes=2))
    result = import_weights(path, tmp_path / "own.ckpt", class_names=("cat", "dog"))
    assert checkpoints.open_checkpoint(result.checkpoint).sidecar.class_names == ("cat", "dog")
    assert "num_classes=3 but 2 class names" in refusal(path, class_names=("a", "b"), num_classes=3)


def test_conversion_says_what_else_differs(tmp_path: Path) -> None:
    path = write(tmp_path / "tf_efficientnet.ckpt", foreign("timm-tf", "efficientnet_tiny"))
    own = checkpoints.open_checkpoint(import_weights(path, tmp_path / "own.ckpt").checkpoint)
    result = convert(own, tmp_path / "v.ckpt", to="mindvision")
    assert result.differences == (
        "eps of BatchNorm 0.001, not its own 1e-05",
        "same padding, not its own symmetric",
    )
    with pytest.raises(ConfigError, match=r"must end in \.ckpt or \.safetensors"):
        convert(own, tmp_path / "v.pth", to="mindvision")
    with pytest.raises(ConfigError, match="did you mean 'torchvision'"):
        convert(own, tmp_path / "v.ckpt", to="torchvison")
    lite = write(tmp_path / "l.ckpt", foreign("lukemelas", "efficientnet_tiny_lite"))
    own = checkpoints.open_checkpoint(import_weights(lite, tmp_path / "lite.ckpt").checkpoint)
    with pytest.raises(ConfigError, match="mindvision has no efficientnet_tiny_lite"):
        convert(own, tmp_path / "v.ckpt", to="mindvision")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"{", "EOF while parsing"),
        (b"{" * 100_000, "invalid JSON in header"),
        (b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion limit exceeded"),
        (b"{}", "not fully covered"),
        (b'{"w":{"dtype":"F32","shape":[5000000000],"data_offsets":[0,20000000000]}}', "not fully"),
        (
            b'{"w":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,8]}}',
            "overflow",
        ),
        (b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', "is damaged"),
        (b'{"w":{"dtype":"F8","shape":[8],"data_offsets":[0,8]}}', "unknown variant `F8`"),
        (b'{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}', "unknown type 'F8_E4M3'"),
        (b'{"w":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}}', "unknown type 'C64'"),
        (b'{"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', "integer `-2`"),
        (b'{"w":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', "expected value"),
        (b'{"w":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}', "number out of range"),
        (b'{"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', "floating point `2.0`"),
        (
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
            "invalid offset for tensor `w`",
        ),
        (b'{"w":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}', "expected a sequence"),
        (b'{"w":{"dtype":"F32","shape":[2]}}', "missing field `data_offsets`"),
        (b'{"w":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}}', "is damaged"),
        (b'{"w":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,8]}}', "duplicate field"),
        (
            b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            "invalid offset for tensor `w`",
        ),
        (
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            "invalid offset for tensor",
        ),
        (
            b'{"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"w":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],"data_offsets":[8,8]}}',
            "'w' has a shape that no tensor has",
        ),
        (
            b'{"w":{"dtype":"F32","shape":[2' + b",1" * 16 + b'],"data_offsets":[0,8]}}',
            "'w' has 17 dimensions, at most 16 are read",
        ),
        (
            b'{"w":{"dtype":"F32","shape":[2' + b",1" * 99 + b'],"data_offsets":[0,8]}}',
            "'w' has 100 dimensions, at most 16 are read",
        ),
    ],
)
def test_a_damaged_safetensors_header(header: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert reason in refusal(path)


@pytest.mark.parametrize("header", [b"{}", b'{"__metadata__":{"a":"b"}}'])
def test_a_safetensors_file_without_tensors(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "it holds no named tensors" in refusal(path)


@pytest.mark.parametrize("header", [b"[1]", b"[" * 100_000, b"nonsense"])
def test_a_header_that_is_no_mapping(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(Malformed, match=r"it is damaged \(invalid JSON"):
        read_safetensors(path)


def test_types_that_numpy_lacks_are_widened(tmp_path: Path) -> None:
    header = (
        b'{"b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},'
        b'"h":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}}'
    )
    path = tmp_path / "x.safetensors"
    half = np.array([1.5, -2], np.float16).tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f\x00\xc0" + half)
    found = read_safetensors(path)
    assert (found["b"].dtype, found["b"].tolist()) == (np.float32, [1, -2])
    assert (found["h"].dtype, found["h"].tolist()) == (np.float16, [1.5, -2])


def test_a_safetensors_header_of_20_gb(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((20_000_000_000).to_bytes(8, "little") + b"{" + bytes(40))
    assert "its header has 20,000,000,000 bytes, at most 10,000,000 are read" in refusal(path)
