"""How often a worse model passes the gate, by simulation; the page in docs/ says what the code does."""

from __future__ import annotations

import pytest

from benchmarks.gate import BEGIN, END, PAGE, SETTINGS, draw, tables


def share(setting: str, images: int, difference: float, *, pairs: int = 300) -> float:
    found = draw(images, difference, pairs=pairs, seed=7)
    return sum(map(SETTINGS[setting], found)) / pairs


def test_a_worse_model_rarely_passes_and_the_stricter_the_rarer() -> None:
    for images in (100, 1000):
        lenient, middle, strict = (
            share(name, images, -0.01)
            for name in ("`not_worse`", "`better`", "`significantly_better`")
        )
        assert strict <= 0.01 < middle <= lenient
    assert share("`not_worse`", 10_000, -0.02) == 0
    assert share("`significantly_better`", 1000, 0.0) < 0.05


def test_a_better_model_passes_once_the_split_is_large() -> None:
    for name in SETTINGS:
        if "`better`, margin" not in name:
            assert share(name, 10_000, 0.02, pairs=100) == 1.0, name


@pytest.mark.slow
def test_the_page_is_what_the_script_writes() -> None:
    text = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert text == tables()
