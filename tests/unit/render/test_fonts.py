"""Names are drawn in a font that has their letters."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import ImageFont

from effnet_core.render import fonts


@pytest.mark.parametrize("text", ["Žluťoučký kůň", "кошка", "γάτα", "Äpfel, naïve, señor"])
def test_accents_and_other_scripts_are_no_boxes(text: str) -> None:
    font = fonts.font_for(text, 17)
    assert isinstance(font, ImageFont.FreeTypeFont)
    box = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(letter)) != box for letter in text if letter.isalpha())


def test_the_font_that_has_most_letters_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    own, wide = fonts._files()[0], Path("/nowhere/NotoSansCJK.ttc")
    letters = {own: fonts._letters_of(own), wide: frozenset(map(ord, "猫と犬abc"))}
    monkeypatch.setattr(fonts, "_files", lambda: (own, wide))
    monkeypatch.setattr(fonts, "_letters_of", letters.__getitem__)
    taken = []

    def truetype(path: str, size: int) -> None:
        taken.append((path, size))

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    fonts.font_for("猫", 12)
    fonts.font_for("кошка", 12)
    assert taken == [(str(wide), 12), (str(own), 12)]
