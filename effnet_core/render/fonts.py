"""Fonts that have the letters of a text: names of classes are written in every script."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

PREFERRED = (
    "NotoSans",
    "SourceHan",
    "WenQuanYi",
    "wqy",
    "Droid",
    "Unifont",
    "unifont",
    "DejaVuSans",
)
"""Beginnings of the file names of fonts with many scripts, the widest first."""


def font_for(text: str, size: int) -> Font:
    """A font that has every letter of a text, else the one that has most of them.

    Pillow's own font has Latin letters; Matplotlib brings DejaVu with Greek and Cyrillic; those of Chinese,
    Japanese and Korean are looked for on this machine (Debian: fonts-noto-cjk).
    """
    if text.isascii():
        return ImageFont.load_default(size)
    letters = {ord(letter) for letter in text if not letter.isspace()}
    best = max(_files(), key=lambda path: len(letters & _letters_of(path)), default=None)
    if best is None or not letters & _letters_of(best):
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(best), size)


def can_write(text: str) -> bool:
    """Whether a font of this machine has every letter of a text; others come out as boxes."""
    if text.isascii():
        return True
    letters = {ord(letter) for letter in text if not letter.isspace()}
    return any(letters <= _letters_of(path) for path in _files())


@cache
def _files() -> tuple[Path, ...]:
    """Fonts of this machine: those that Matplotlib brings, then wide ones."""
    import matplotlib as mpl
    from matplotlib import font_manager

    own = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    found = sorted(Path(name) for name in font_manager.findSystemFonts())
    wide = [path for name in PREFERRED for path in found if path.name.startswith(name)]
    return tuple(dict.fromkeys((own, *wide, *found)))


@cache
def _letters_of(path: Path) -> frozenset[int]:
    """The letters that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
