"""Preprocessing comes with the weights: config.json beside them, their name, or options; else a warning."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import CheckpointError, ConfigError
from effnet_core.events import Event, listen
from effnet_core.family.variants import variant
from effnet_core.weights import catalogue
from effnet_core.weights.importing import Imported, import_weights
from effnet_core.weights.layouts import LAYOUTS
from effnet_core.weights.publisher import of_name
from flows.cli import app
from tests.unit.weights.test_importing import foreign, write

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "timm_configs.json").read_text())
"""24 configurations as timm 1.0.31 gives them."""
ADV = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    heard: list[str] = []

    def hear(event: Event) -> None:
        if event.message and event.message.startswith("warning:"):
            heard.append(event.message)

    with listen(hear):
        yield heard


def said(config: dict[str, Any]) -> tuple[object, ...]:
    """What timm's evaluation does with a configuration."""
    size = config.get("test_input_size", config["input_size"])[-1]
    crop = config.get("test_crop_pct", config["crop_pct"])
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return size, crop, config["crop_mode"], config["interpolation"], mean, std


def found(spec: PreprocessSpec) -> tuple[object, ...]:
    return (
        *(spec.image_size, spec.crop_pct, spec.crop_mode),
        *(spec.interpolation, spec.mean, spec.std),
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {
        layout: write(folder / f"{layout}.safetensors", foreign(layout, "efficientnet_tiny"))
        for layout in ("timm", "lukemelas", "torchvision", "mindvision")
    }


def imported(
    source: Path, folder: Path, name: str = "model.safetensors", **options: Any
) -> Imported:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(source.read_bytes())
    return import_weights(path, folder / "own.ckpt", **options)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_sidecars_of_config_json(
    name: str, tiny: dict[str, Path], tmp_path: Path, warnings: list[str]
) -> None:
    config = GOLDEN[name]
    architecture = name.partition(".")[0]
    beside = {"architecture": architecture, "num_classes": 1000, "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    result = imported(tiny["timm"], tmp_path)
    assert found(result.sidecar.preprocess) == said(config)
    tensorflow = architecture.startswith("tf_")
    assert result.layout == ("timm-tf" if tensorflow else "timm")
    assert (result.sidecar.padding, result.sidecar.bn_eps) == (
        ("same", 1e-3) if tensorflow else ("symmetric", 1e-5)
    )
    assert result.told_by == "config.json beside it"
    assert warnings == []


@pytest.mark.parametrize("name", GOLDEN)
def test_the_name_alone_says_the_same(name: str) -> None:
    entry = catalogue.others()[name]
    for text in (name, f"timm/{name}", f"/models/{name}.safetensors", entry.file_name or name):
        statement = of_name(text, entry.layout, entry.variant)
        assert statement is not None, text
        spec = PreprocessSpec(**statement.preprocess)  # type: ignore[arg-type]
        assert found(spec) == said(GOLDEN[name])
    assert entry.num_classes == GOLDEN[name]["num_classes"]


@pytest.mark.parametrize(
    ("layout", "name", "mean", "told"),
    [
        ("lukemelas", "adv-efficientnet-b0-b64d5a18.pth", ADV, True),
        ("lukemelas", "adv-efficientnet-b0.pth", ADV, True),
        ("lukemelas", "efficientnet-b0-355c32eb.pth", IMAGENET, True),
        ("lukemelas", "mine.pth", IMAGENET, False),
        ("timm-tf", "tf_efficientnet_b0_ap.pth", ADV, True),
        ("timm-tf", "tf_efficientnet_b0.pth", IMAGENET, False),
        ("timm-tf", "tf_efficientnet_b0.mine.pth", IMAGENET, False),
        ("timm", "efficientnet_b0.ra4_e3600_r224_in1k/model.safetensors", ADV, True),
        ("timm", "efficientnet_b0.pth", IMAGENET, False),
        ("torchvision", "efficientnet_b0_rwightman-7f5810bc.pth", IMAGENET, True),
    ],
)
def test_names(layout: str, name: str, mean: tuple[float, ...], told: bool) -> None:
    statement = of_name(name, layout, "efficientnet_b0")
    assert (statement is not None) == told
    spec = LAYOUTS[layout].spec(variant("efficientnet_b0"))
    stated = statement.preprocess if statement else {}
    assert stated.get("mean", spec.mean) == mean


def test_torchvisions_second_b1_has_its_own_resize() -> None:
    first = of_name("efficientnet_b1_rwightman-bac287d4.pth", "torchvision", "efficientnet_b1")
    second = of_name("efficientnet_b1-c27df63c.pth", "torchvision", "efficientnet_b1")
    assert first is not None
    assert second is not None
    specs = [PreprocessSpec(**one.preprocess) for one in (first, second)]  # type: ignore[arg-type]
    assert [(one.resize_size, one.interpolation) for one in specs] == [
        (256, "bicubic"),
        (255, "bilinear"),
    ]


def test_a_guess_is_said(tiny: dict[str, Path], tmp_path: Path, warnings: list[str]) -> None:
    result = imported(tiny["timm"], tmp_path / "a", "mine.safetensors", layout="timm")
    assert result.told_by == ""
    assert "(a guess)" in result.describe()
    assert result.sidecar.source.endswith("images are prepared by a guess")
    assert len(warnings) == 1
    assert "mine.safetensors does not say how images are prepared" in warnings[0]
    assert "mean 0.485 0.456 0.406" in warnings[0]
    warnings.clear()
    imported(tiny["mindvision"], tmp_path / "b", "mine.safetensors")
    imported(tiny["lukemelas"], tmp_path / "c", "adv-efficientnet-b0.safetensors")
    assert warnings == []


def test_options_win(tiny: dict[str, Path], tmp_path: Path, warnings: list[str]) -> None:
    given = {
        "mean": ADV,
        "std": ADV,
        "crop_pct": 0.9,
        "interpolation": "bilinear",
        "image_size": 48,
    }
    result = imported(tiny["timm"], tmp_path, layout="timm", preprocess=given)
    assert found(result.sidecar.preprocess) == (48, 0.9, "center", "bilinear", ADV, ADV)
    assert "(what was given)" in result.describe()
    assert warnings == []
    with pytest.raises(ConfigError, match="images cannot be prepared so: crop_pct"):
        imported(tiny["timm"], tmp_path, layout="timm", preprocess={"crop_pct": 1.5})


def test_the_command_takes_them(tiny: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "own.ckpt"
    told = "--mean 0.5 --std 0.1,0.2,0.3 --crop-pct 0.9 --interpolation bilinear --image-size 48"
    given = ["weights", "import", str(tiny["timm"]), "--layout", "timm", "--out", str(out)]
    done = CliRunner().invoke(app, [*given, *told.split()], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    spec = json.loads(out.with_suffix(".json").read_text())["preprocess"]
    assert (spec["mean"], spec["std"]) == ([0.5] * 3, [0.1, 0.2, 0.3])
    assert (spec["image_size"], spec["crop_pct"], spec["interpolation"]) == (48, 0.9, "bilinear")
    wrong = CliRunner().invoke(app, [*given, "--mean", "0.5,0.4"])
    assert wrong.exit_code == 2
    assert "--mean 0.5,0.4 must be one number, or three" in wrong.output


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"interpolation": "lanczos"}, "asks for interpolation 'lanczos', known here are bicubic"),
        ({"crop_mode": "border"}, "asks for crop_mode 'border'"),
        ({"mean": [0.5]}, "does not say in timm's way"),
        ({"crop_pct": "most"}, "does not say in timm's way"),
    ],
)
def test_a_config_that_cannot_be_followed(
    changes: dict[str, Any], reason: str, tiny: dict[str, Path], tmp_path: Path
) -> None:
    config = GOLDEN["efficientnet_b0.ra_in1k"] | changes
    beside = {"architecture": "efficientnet_b0", "pretrained_cfg": config}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    with pytest.raises(CheckpointError, match=reason):
        imported(tiny["timm"], tmp_path)


def test_a_config_of_a_fine_tuned_model(tmp_path: Path) -> None:
    """Names of the classes, eps and padding that the network was built with, the old flat form."""
    arrays = foreign("timm", "efficientnet_tiny", num_classes=2)
    source = write(tmp_path / "x.safetensors", arrays)
    config = {
        "architecture": "efficientnet_b0",
        "label_names": ["cat", "dog"],
        "model_args": {"bn_eps": 0.002, "pad_type": "same"},
        **GOLDEN["efficientnet_b0.ra4_e3600_r224_in1k"],
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    sidecar = imported(source, tmp_path / "run").sidecar
    assert sidecar.class_names == ("cat", "dog")
    assert (sidecar.bn_eps, sidecar.padding) == (0.002, "same")
    assert sidecar.preprocess.mean == ADV


def test_a_backbone_without_a_head(tmp_path: Path) -> None:
    arrays = foreign("timm", "efficientnet_tiny")
    backbone = {key: value for key, value in arrays.items() if not key.startswith("classifier")}
    source = write(tmp_path / "efficientnet_x.safetensors", backbone)
    with pytest.raises(CheckpointError, match=r"have no head .* --num-classes N"):
        import_weights(source, tmp_path / "own.ckpt", layout="timm")
    result = import_weights(source, tmp_path / "own.ckpt", layout="timm", num_classes=5)
    assert result.sidecar.num_classes == 5
    assert "no head, a new, untrained one of 5" in result.describe()


def test_the_digest_in_a_published_name(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="begins with 355c32eb, but it begins with"):
        imported(tiny["lukemelas"], tmp_path, "efficientnet-b0-355c32eb.pth")


def test_a_digest_in_another_name(
    tiny: dict[str, Path], tmp_path: Path, warnings: list[str]
) -> None:
    right = hashlib.sha256(tiny["mindvision"].read_bytes()).hexdigest()[:8]
    imported(tiny["mindvision"], tmp_path / "a", f"mine-{right}.pth")
    assert warnings == []
    imported(tiny["mindvision"], tmp_path / "b", "mine-20260101.pth")
    assert len(warnings) == 1
    assert "20260101" in warnings[0]


def test_the_catalogue_names_files_once() -> None:
    entries = catalogue.every()
    files = [entry.file_name for entry in entries.values() if entry.file_name]
    assert len(files) == len(set(files))
    assert catalogue.find("efficientnet_b0_1_1_224_0.2.ckpt") is entries["efficientnet_b0"]
    assert all(entry.licence for entry in entries.values())
    for entry in entries.values():
        if len(entry.preprocess) == 6:
            PreprocessSpec(**entry.preprocess)  # type: ignore[arg-type]
    assert np.isclose(entries["efficientnet_b5.sw_in12k_ft_in1k"].top1 or 0, 0.85894)
