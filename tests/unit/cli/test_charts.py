"""``effnet models --chart``: pictures drawn from the family's table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.config.load import load_config, write_config
from effnet_core.family.scaling import cost, steps
from effnet_core.family.variants import VARIANTS
from effnet_core.jobs.job import RESULT_NAME


def draw(file: Path, *options: str) -> Image.Image:
    result = CliRunner().invoke(app, ["models", "--chart", str(file), *options])
    assert result.exit_code == 0, result.output
    with Image.open(file) as image:
        image.load()
        return image


def finished_run(folder: Path, top1: float, variant: str = "efficientnet_b0") -> Path:
    folder.mkdir()
    write_config(load_config(None, [f"model.variant={variant}"]), folder)
    (folder / RESULT_NAME).write_text(json.dumps({"evaluation": {"top1": top1}}))
    return folder


@pytest.mark.costly
def test_ones_own_runs_are_in_the_chart(tmp_path: Path) -> None:
    plain = draw(tmp_path / "plain.png")
    first = draw(tmp_path / "a.png", "--measured", str(finished_run(tmp_path / "a", 0.76)))
    second = draw(tmp_path / "b.png", "--measured", str(finished_run(tmp_path / "b", 0.82)))
    assert len({plain.tobytes(), first.tobytes(), second.tobytes()}) == 3


@pytest.mark.costly
def test_each_network_has_a_picture_of_its_own(tmp_path: Path) -> None:
    pictures = {
        draw(tmp_path / f"{name}.png", "--architecture", name).tobytes()
        for name in ("efficientnet_b0", "efficientnet_b1", "efficientnet_v2_s")
    }
    assert len(pictures) == 3


@pytest.mark.parametrize("name", [row.name for row in VARIANTS.values() if not row.hidden])
def test_the_rows_of_a_network_follow_each_other(name: str) -> None:
    row = VARIANTS[name]
    parts = steps(row)
    assert [part.in_side for part in parts[1:]] == [part.out_side for part in parts[:-1]]
    assert parts[0].in_side == row.image_size
    assert sum(part.cost.parameters for part in parts) == cost(row).parameters


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--chart", "x.jpg"], "must end in .png"),
        (["--architecture", "efficientnet_b0"], "need --chart FILE.png"),
        (["--chart", "x.png", "--architecture", "b0"], "'b0' is unknown"),
        (["--chart", "x.png", "--measured", "nowhere"], "nowhere"),
        (
            ["--chart", "x.png", "--architecture", "efficientnet_b0", "--measured", "y"],
            "not with --architecture",
        ),
    ],
)
def test_what_is_refused(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["models", *options])
    assert result.exit_code == 2
    assert words in result.output
    assert not list(tmp_path.iterdir())
