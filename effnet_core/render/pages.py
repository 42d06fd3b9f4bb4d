"""What all HTML pages share: their templates, charts in both themes, and how values are written."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from effnet_core.render import plots
from effnet_core.system.files import write_text
from effnet_core.text import format_seconds, format_share, human_bytes


@dataclass(frozen=True)
class Card:
    """A headline number."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Chart:
    """A picture of numbers, drawn twice."""

    title: str
    alt: str
    light: str
    dark: str
    width: int
    height: int


def write_page(path: Path, template: str, values: dict[str, Any]) -> Path:
    """Fill a template of ``templates/`` and write the page, atomically.

    Returns:
        ``path``.
    """
    page = _environment().get_template(template).render(values)
    # File names may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


@cache
def _environment() -> Environment:
    """Templates, each compiled once."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        share=format_share, seconds=format_seconds, number="{:,}".format, size=human_bytes
    )
    return environment


def draw_chart(title: str, alt: str, draw: Callable[..., bytes], *values: Any) -> Chart:
    """Draw a chart of ``plots`` in its light and its dark theme."""
    light, dark = (draw(*values, theme=theme) for theme in (plots.LIGHT, plots.DARK))
    with Image.open(io.BytesIO(light)) as image:
        width, height = (round(side * 96 / plots.DPI) for side in image.size)
    uris = plots.png_data_uri(light), plots.png_data_uri(dark)
    return Chart(title, alt.strip(), *uris, width, height)
