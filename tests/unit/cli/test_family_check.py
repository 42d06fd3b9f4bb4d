"""Measured beside published: one evaluation, and the whole family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_core.cli.answers import compare_with_published, print_comparison
from effnet_core.cli.family_check import TABLE_NAME, check_family
from effnet_core.config.schema import RunConfig
from effnet_core.data import imagenet
from effnet_core.errors import CheckpointError, ConfigError
from effnet_core.results import EvalResult
from effnet_core.weights.catalogue import published_as
from flows.cli import app

B0 = "efficientnet_b0"
AP = "tf_efficientnet_b0.ap_in1k"


def evaluated(correct1: int = 38_650, correct5: int = 46_700, **changes: object) -> EvalResult:
    values = {
        "seen": 50_000,
        "correct1": correct1,
        "correct5": correct5,
        "loss": 1.0,
        "class_names": list(imagenet.wordnet_ids()),
        "split": "val",
    }
    return EvalResult(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        (B0, B0),
        ("efficientnet_b0_1_1_224_0.2.ckpt", B0),
        ("folder/efficientnet_b0_1_1_224_0.2.ckpt", B0),
        (
            "https://download.mindspore.cn/vision/classification/efficientnet_b0_1_1_224_0.2.ckpt",
            B0,
        ),
        (f"hf-hub:timm/{AP}", AP),
        (f"hf-hub:timm/{AP}@main", AP),
        ("efficientnet_b1-c27df63c.pth", "efficientnet_b1-c27df63c"),
        ("runs/first", None),
        ("hf-hub:somebody/model", None),
    ],
)
def test_what_weights_were_published_as(weights: str, name: str | None) -> None:
    entry = published_as(weights)
    assert (entry.name if entry else None) == name


def test_published_measured_difference(capsys: pytest.CaptureFixture[str]) -> None:
    rows = compare_with_published(B0, evaluated())
    assert [(row.measure, row.published, row.measured) for row in rows] == [
        ("top1", 0.774, 0.773),
        ("top5", 0.934, 0.934),
    ]
    print_comparison(rows)
    assert (
        "top-1 of efficientnet_b0: published 77.40%, measured 77.30%, difference -0.10 points"
        in capsys.readouterr().out
    )


def test_nothing_is_compared_on_other_classes_or_with_unknown_weights() -> None:
    assert compare_with_published(B0, evaluated(class_names=["cat", "dog"])) == []
    assert compare_with_published("runs/first", evaluated()) == []
    assert compare_with_published("efficientnet_lite1", evaluated()) == []  # no figure of this file


def test_the_family_is_measured_once_and_failures_are_named(tmp_path: Path) -> None:
    asked = []

    def measure(name: str) -> EvalResult:
        asked.append(name)
        if name == "efficientnet_b1":
            raise CheckpointError("it cannot be fetched")
        return evaluated()

    names = [B0, "efficientnet_b1", AP]
    assert check_family(names, tmp_path, measure, data_digest="d" * 64) == ["efficientnet_b1"]
    assert asked == names
    lines = (tmp_path / TABLE_NAME).read_text().splitlines()
    assert (
        "| efficientnet_b0 | 77.40 | 77.30 | -0.10 | 93.40 | 93.40 | +0.00 | 77.1 | 50,000 |"
        in lines
    )
    assert "| efficientnet_b1 | not measured: it cannot be fetched |" in lines
    assert lines[-1].startswith(f"| {AP} | 77.10 | 77.30 | +0.20 |")
    check_family(names, tmp_path, measure, data_digest="d" * 64)
    assert asked == [*names, "efficientnet_b1"]  # only what was missing
    check_family([B0], tmp_path, measure, data_digest="e" * 64)
    assert asked[-1] == B0  # other data, measured anew


def test_only_published_weights_are_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"are not published ones; did you mean 'efficientnet_b"):
        check_family(["efficientnet_bo"], tmp_path, lambda name: evaluated(), data_digest="")


def test_evaluate_takes_settings_of_a_recipe_but_not_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []

    def evaluate(*_: object, config: RunConfig, **__: object) -> EvalResult:
        configs.append(config)
        return evaluated()

    monkeypatch.setattr("effnet_core.api.evaluate", evaluate)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "data: {image_size: 64, workers: 3}\nevaluate: {per_device_batch_size: 7}\n", "utf-8"
    )
    given = ["evaluate", "--weights", B0, "--data", str(tmp_path), "--recipe", str(recipe)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "difference -0.10 points" in " ".join(done.output.split())
    [config] = configs
    assert (config.data.workers, config.evaluate.per_device_batch_size) == (3, 7)
    assert config.data.image_size is None  # it comes with the weights
    done = CliRunner().invoke(app, [*given, "-o", "data.image_size=96", "--json"])
    assert configs[-1].data.image_size == 96
    assert json.loads(done.output)["published"] == {"top1": 0.774, "top5": 0.934}
