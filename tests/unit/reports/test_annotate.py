"""The picture that ``effnet predict`` draws of a single answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import DataError
from effnet_core.infer.plan import RUN_NAME
from effnet_core.render import fonts
from effnet_core.reports.annotate import (
    ROW_PX,
    UNWRITABLE,
    annotate,
    annotate_single,
    font_hint,
)
from effnet_core.system.files import write_json
from tests.support.images import draw, encode

ROW = {"class_ids": [282, 7], "class_names": ["tiger cat", "cock"], "probs": [0.75, 0.1]}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.jpg"
    path.write_bytes(encode(draw(400, 300), "JPEG", quality=95))
    return path


def test_the_picture_stays_and_the_answers_stand_below(picture: Path, tmp_path: Path) -> None:
    before = picture.read_bytes()
    found = pixels(annotate(picture.read_bytes(), ROW, tmp_path / "out.png"))
    assert picture.read_bytes() == before
    assert found.shape == (300 + 2 * ROW_PX, 400, 3)
    with Image.open(picture) as original:
        np.testing.assert_array_equal(found[:300], np.asarray(original))


def test_bars_are_as_long_as_the_probabilities(picture: Path, tmp_path: Path) -> None:
    found = pixels(annotate(picture.read_bytes(), ROW, tmp_path / "out.png"))
    for row, share in enumerate(ROW["probs"]):
        line = found[300 + row * ROW_PX + 1]  # above the letters
        filled = (line != [255, 255, 255]).any(axis=1)
        assert filled.sum() == pytest.approx(share * 400, abs=1)
        assert filled[: int(share * 400) - 1].all()


def test_a_model_that_is_quite_sure_leaves_no_bar_for_the_rest(
    picture: Path, tmp_path: Path
) -> None:
    row = {**ROW, "probs": [1.0, 1e-6]}
    found = pixels(annotate(picture.read_bytes(), row, tmp_path / "out.png"))
    line = found[300 + ROW_PX + 1]
    assert (line == 255).all()


def test_a_single_answer_is_drawn_whatever_the_name(tmp_path: Path) -> None:
    """Below a name of full length the copy's own name would be too long for the file system."""
    name = "x" * 250 + ".jpg"
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / name).write_bytes(encode(draw(), "JPEG"))
    write_json(output / RUN_NAME, {"input": str(folder)})
    copy = annotate_single({**ROW, "path": name}, output, StorageConfig())
    assert copy.parent == output and copy.name.endswith("-labelled.png") and copy.exists()
    (folder / name).unlink()
    (folder / "other").write_text("")
    with pytest.raises(DataError, match="cannot be drawn any more: no such file"):
        annotate_single({**ROW, "path": name}, output, StorageConfig())


def test_other_answers_are_other_letters(picture: Path, tmp_path: Path) -> None:
    one = pixels(annotate(picture.read_bytes(), ROW, tmp_path / "a.png"))
    other = {**ROW, "class_names": ["tabby", "cock"]}
    two = pixels(annotate(picture.read_bytes(), other, tmp_path / "b.png"))
    first, second = one[300 : 300 + ROW_PX], two[300 : 300 + ROW_PX]
    assert (first != second).any()
    np.testing.assert_array_equal(one[300 + ROW_PX :], two[300 + ROW_PX :])


def test_long_names_end_before_the_number(picture: Path, tmp_path: Path) -> None:
    long = {**ROW, "class_names": ["a name " * 40, "cock"]}
    found = pixels(annotate(picture.read_bytes(), long, tmp_path / "out.png"))
    shorter = pixels(annotate(picture.read_bytes(), ROW, tmp_path / "b.png"))
    np.testing.assert_array_equal(
        found[300 : 300 + ROW_PX, -60:], shorter[300 : 300 + ROW_PX, -60:]
    )


@pytest.mark.parametrize(
    ("mode", "size", "wide"),
    [("L", (8, 8), 320), ("RGBA", (3000, 1500), 1024), ("P", (9, 90), 320)],
)
def test_any_mode_and_size(mode: str, size: tuple[int, int], wide: int, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    draw(*size).convert(mode).save(path)
    found = pixels(annotate(path.read_bytes(), ROW, tmp_path / "out.png"))
    assert found.shape[1] == wide


def test_a_name_that_no_font_can_write_is_said_and_not_drawn_as_boxes(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [matplotlibs, *_] = fonts._files()
    monkeypatch.setattr(fonts, "_files", lambda: (matplotlibs,))
    row = {**ROW, "class_names": ["猫", "кошка"]}
    found = pixels(annotate(picture.read_bytes(), row, tmp_path / "a.png"))
    said = {**ROW, "class_names": [UNWRITABLE, "кошка"]}
    assert (found == pixels(annotate(picture.read_bytes(), said, tmp_path / "b.png"))).all()
    assert "the letters of 猫" in font_hint(row)
    assert "fonts-noto-cjk" in font_hint(row)
    assert font_hint(ROW) == ""
