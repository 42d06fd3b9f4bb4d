"""A picture with what a model says about it, drawn below it on a copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageDraw

from effnet_core.config.schema import StorageConfig
from effnet_core.data.images import WHITE, Colour, ImageProblem, decode_image, to_rgb
from effnet_core.errors import DataError
from effnet_core.infer.output import SUMMARY_NAME, background_of
from effnet_core.infer.plan import planned_reader
from effnet_core.render.fonts import Font, can_write, font_for
from effnet_core.system.files import atomic_path, read_json

LONGEST_SIDE_PX = 1024
"""Larger pictures are shown smaller."""
SHORTEST_WIDTH_PX = 320
"""Narrower ones are shown larger, so that the names fit."""
MAX_NAME_BYTES = 200
"""Bytes of a picture's name, so that the copy's and its temporary name are still allowed."""
ROW_PX, TEXT_PX, MARGIN_PX = 28, 17, 10
UNWRITABLE = "(no font here has its letters)"
"""Stands for a name that would be drawn as boxes."""
INK, PAPER, BAR, BEST_BAR = "#1c2733", "#ffffff", "#d3e3f1", "#9cc7ea"


def annotate(
    content: bytes, row: dict[str, Any], out: Path, background: Colour | None = WHITE
) -> Path:
    """Write a copy of a picture with a row of name, probability and bar for each answer.

    Args:
        content: the image file's bytes.
        row: one row of predictions: ``class_ids``, ``class_names`` and ``probs``, best first.
        out: PNG file to write; replaced in one step.
        background: what the model saw transparent pictures on.

    Raises:
        ImageProblem: the picture cannot be decoded.
    """
    image = _at_reading_size(to_rgb(decode_image(content, max_pixels=sys.maxsize), background))
    answers = list(zip(row["class_ids"], row["class_names"], row["probs"], strict=True))
    page = Image.new("RGB", (image.width, image.height + ROW_PX * len(answers)), PAPER)
    page.paste(image, (0, 0))
    _draw_answers(ImageDraw.Draw(page), answers, top=image.height, width=image.width)
    with atomic_path(out) as temporary:
        page.save(temporary, "PNG")
    return out


def annotate_single(row: dict[str, Any], output: Path, storage: StorageConfig) -> Path:
    """Draw the only picture of a finished batch inference, into its output folder.

    Raises:
        DataError: the picture can no longer be read.
        EffnetError: nothing can be read where it was.
    """
    name = PurePosixPath(row["path"]).stem.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    try:
        content = planned_reader(output, storage).read(row["path"])
        summary = output / SUMMARY_NAME
        background = background_of(read_json(summary) if summary.is_file() else {})
        return annotate(content, row, output / f"{name}-labelled.png", background)
    except ImageProblem as problem:
        raise DataError(
            f"{row['path']} was labelled, but cannot be drawn any more: {problem}"
        ) from problem


def font_hint(row: dict[str, Any]) -> str:
    """What to say where a name of a row could not be drawn; empty where all could."""
    lost = next((name for name in row["class_names"] if not can_write(name)), "")
    if not lost:
        return ""
    return (
        f"no font of this machine has the letters of {lost}, so the copy has numbers only; install one, "
        "such as Debian's fonts-noto-cjk"
    )


def _at_reading_size(image: Image.Image) -> Image.Image:
    """The picture at a size at which text of ``TEXT_PX`` looks right below it."""
    scale = min(1.0, LONGEST_SIDE_PX / max(image.size))
    scale = max(scale, SHORTEST_WIDTH_PX / image.width)
    if scale == 1.0:
        return image
    size = (round(image.width * scale), max(1, round(image.height * scale)))
    # An enlarged small picture shows its pixels; smoothing would pretend to more than there is.
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return image.resize(size, how)


def _draw_answers(
    draw: ImageDraw.ImageDraw,
    answers: Sequence[tuple[int, str, float]],
    *,
    top: int,
    width: int,
) -> None:
    for place, (class_id, name, share) in enumerate(answers):
        shown = name if can_write(name) else UNWRITABLE
        font = font_for(shown, TEXT_PX)
        y = top + place * ROW_PX
        bar = BEST_BAR if place == 0 else BAR
        if length := round(width * share):
            draw.rectangle((0, y, length - 1, y + ROW_PX - 2), fill=bar)
        percent = f"{share:.1%}"
        percent_width = draw.textlength(percent, font=font)
        room = width - percent_width - 3 * MARGIN_PX
        middle = y + ROW_PX / 2 - 1
        text = _shortened(draw, f"{class_id}  {shown}", room, font)
        draw.text((MARGIN_PX, middle), text, INK, font, anchor="lm")
        draw.text((width - MARGIN_PX, middle), percent, INK, font, anchor="rm")


def _shortened(draw: ImageDraw.ImageDraw, text: str, room: float, font: Font) -> str:
    """As much of the text as fits, with an ellipsis where some is missing."""
    if draw.textlength(text, font=font) <= room:
        return text
    while text and draw.textlength(f"{text}...", font=font) > room:
        text = text[:-1]
    return f"{text.rstrip()}..."
