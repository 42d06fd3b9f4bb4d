"""Real ImageNet weights on real photographs, through the commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage
import sklearn
from PIL import Image

from effnet_core.weights.ckpt_file import read_ckpt
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = {
    "chelsea": (Path(skimage.__file__).parent / "data" / "chelsea.png", "{282: 'tiger cat'}"),
    "coffee": (Path(skimage.__file__).parent / "data" / "coffee.png", "{967: 'espresso'}"),
    "flower": (Path(sklearn.__file__).parent / "datasets/images/flower.jpg", "{985: 'daisy'}"),
}


def effnet(*arguments: object, folder: Path | None = None) -> str:
    command = [sys.executable, "-m", "effnet_core", *map(str, arguments)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=variables
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_a_photograph_alone_is_enough(tmp_path: Path) -> None:
    """No weights and no folder named: those of the package, a folder of its own, the five best answers."""
    picture, answer = PHOTOGRAPHS["flower"]
    said = effnet("predict", picture, folder=tmp_path)
    assert "weights: efficientnet_lite0, ImageNet's 1,000 classes" in said
    assert answer in said.splitlines()
    shares = [float(share) for share in re.findall(r"^ *([0-9.]+)%  \S", said, flags=re.MULTILINE)]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    (output,) = (tmp_path / "runs" / "predict").iterdir()
    assert f"runs/predict/{output.name}" in said
    assert (output / "flower-labelled.png").is_file()


@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_a_photograph_is_named_and_drawn_on(name: str, tmp_path: Path) -> None:
    picture, answer = PHOTOGRAPHS[name]
    before = picture.stat().st_mtime_ns, sorted(picture.parent.iterdir())
    output = tmp_path / "answer"
    said = effnet("predict", "--weights", "efficientnet_lite0", picture, "--output", output)
    answers = [line for line in said.splitlines() if line.startswith("{")]
    assert answers == [answer]
    drawn = output / f"{picture.stem}-labelled.png"
    assert f"drawn on {drawn}" in said
    with Image.open(drawn) as copy, Image.open(picture) as original:
        assert copy.height > original.height * copy.width / original.width
    assert (picture.stat().st_mtime_ns, sorted(picture.parent.iterdir())) == before


@pytest.mark.parametrize("layout", ["mindvision", "mindcv", "timm", "torchvision"])
def test_weights_go_out_and_come_back_by_command(layout: str, tmp_path: Path) -> None:
    """A checkpoint, converted for another and imported from there, is the same model."""
    numbers = tuple(map(str, range(1000)))
    own = make_checkpoint(tmp_path / "b0.ckpt", "efficientnet_b0", 1000, class_names=numbers)
    suffix = "ckpt" if layout.startswith("mind") else "safetensors"
    out, back = tmp_path / f"efficientnet_b0.{suffix}", tmp_path / "back.ckpt"
    effnet("weights", "convert", own, "--to", layout, "--out", out)
    said = effnet("weights", "import", out, "--variant", "efficientnet_b0", "--out", back)
    assert f"{layout}'s layout" in said
    ours, theirs = read_ckpt(own), read_ckpt(back)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_layout_without_the_variant_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    words = f"weights convert efficientnet_lite0 --to torchvision --out {out}".split()
    done = subprocess.run(
        [sys.executable, "-m", "effnet_core", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "torchvision has no efficientnet_lite0; these layouts have: native, timm" in done.stderr
    assert not out.exists()
