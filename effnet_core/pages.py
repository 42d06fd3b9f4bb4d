"""What all HTML pages share: their templates, charts in both themes, and how values are written."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from effnet_core import plots
from effnet_core.files import human_bytes, write_text

NO_VALUE = "\N{EN DASH}"


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
    page = environment.get_template(template).render(values)
    # File names may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


def draw_chart(title: str, alt: str, draw: Callable[..., bytes], *values: Any) -> Chart:
    """Draw a chart of ``plots`` in its light and its dark theme."""
    light, dark = (draw(*values, theme=theme) for theme in (plots.LIGHT, plots.DARK))
    with Image.open(io.BytesIO(light)) as image:
        width, height = (round(side * 96 / plots.DPI) for side in image.size)
    uris = plots.png_data_uri(light), plots.png_data_uri(dark)
    return Chart(title, alt.strip(), *uris, width, height)


def format_share(value: float | None, digits: int = 1) -> str:
    """A ratio as percent; a dash where there is none."""
    return NO_VALUE if value is None else f"{value:.{digits}%}"


def format_seconds(seconds: float) -> str:
    """A duration for people, such as ``2 min 05 s``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def markdown_text(text: str) -> str:
    """Names of files and classes without what Markdown would read as markup."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    for mark in "\\|`*_[]()":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.replace("<", "&lt;").split())
