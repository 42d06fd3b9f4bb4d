"""The data card: what is in a staged data set, as one HTML file with everything inside, and as Markdown."""

from __future__ import annotations

import base64
import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.data.images import (
    WHITE,
    Colour,
    ImageProblem,
    decode_image,
    read_bytes,
    to_rgb,
)
from effnet_core.data.splits import TRAIN
from effnet_core.data.verification import VERIFICATION_NAME, Verification
from effnet_core.render.pages import write_page
from effnet_core.system.files import read_json, write_text
from effnet_core.text import human_bytes, markdown_text

CARD_NAME = "data_card.html"
CARD_MARKDOWN_NAME = "data_card.md"
TEMPLATE_NAME = "data_card.html.j2"
MAX_CLASS_ROWS = 100
MAX_SAMPLE_CLASSES = 20
SAMPLES_PER_CLASS = 5
THUMBNAIL_PX = 112
SIDE_STEPS_PX = (32, 64, 128, 224, 320, 480, 640, 1024, 2048)
"""Upper ends of the histogram's bars, of the shorter side."""


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart."""

    label: str
    counts: dict[str, int]
    share: float
    """Share of the longest bar, 0-1."""

    @property
    def total(self) -> int:
        """All splits together."""
        return sum(self.counts.values())


def write_card(
    out: Path,
    rows: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    facts: Verification,
    *,
    background: Colour | None = WHITE,
) -> None:
    """Write ``data_card.html`` and ``data_card.md`` into a staged data set.

    Args:
        out: the data set's folder, with its images.
        rows: of the manifest, and ``class_name`` besides.
        class_names: in the order of their labels.
        facts: what verification found.
        background: colour that transparent images are laid on.
    """
    bars = class_bars(rows, class_names)
    values = {
        "facts": facts,
        "splits": _splits(rows),
        "classes": bars[:MAX_CLASS_ROWS],
        "more_classes": max(0, len(bars) - MAX_CLASS_ROWS),
        "num_classes": len(class_names),
        "sides": side_bars(rows),
        "samples": [
            (name, _thumbnails(out, rows, name, background))
            for name in class_names[:MAX_SAMPLE_CLASSES]
        ],
        "more_samples": max(0, len(class_names) - MAX_SAMPLE_CLASSES),
    }
    write_page(out / CARD_NAME, TEMPLATE_NAME, values)
    write_text(out / CARD_MARKDOWN_NAME, _markdown(rows, bars, facts))


def read_card(root: Path) -> str:
    """The data card of a staged data set as Markdown; empty for one that was staged before there were any."""
    path = root / CARD_MARKDOWN_NAME
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def read_facts(root: Path) -> dict[str, Any]:
    """What verification found in a staged data set.

    Raises:
        DataError: the data set has no such file.
    """
    return dict(read_json(root / VERIFICATION_NAME))


def class_bars(rows: Sequence[dict[str, Any]], class_names: Sequence[str]) -> list[Bar]:
    """Images of each class and split, in the order of labels."""
    counts = Counter((row["class_name"], row["split"]) for row in rows)
    splits = _splits(rows)
    return _bars([(name, {s: counts[name, s] for s in splits}) for name in class_names])


def side_bars(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    """How many images have how long a shorter side."""
    splits = _splits(rows)
    found = []
    for low, high in zip((0, *SIDE_STEPS_PX), (*SIDE_STEPS_PX, 1 << 30), strict=True):
        inside = [row for row in rows if low < min(row["width"], row["height"]) <= high]
        label = f"{low + 1}-{high} px" if high < 1 << 30 else f"over {low} px"
        counts = Counter(row["split"] for row in inside)
        found.append((label, {split: counts[split] for split in splits}))
    while found and not sum(found[0][1].values()):
        found.pop(0)
    while found and not sum(found[-1][1].values()):
        found.pop()
    return _bars(found)


def _bars(found: list[tuple[str, dict[str, int]]]) -> list[Bar]:
    longest = max((sum(counts.values()) for _, counts in found), default=1) or 1
    return [Bar(label, counts, sum(counts.values()) / longest) for label, counts in found]


def _splits(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({row["split"] for row in rows}, key=lambda split: (split != TRAIN, split))


def _thumbnails(
    out: Path, rows: Sequence[dict[str, Any]], class_name: str, background: Colour | None
) -> list[tuple[str, str]]:
    """Path and picture of some images of a class, spread over it."""
    own = [row for row in rows if row["class_name"] == class_name]
    step = max(1, len(own) // SAMPLES_PER_CLASS)
    found = []
    for row in own[::step][:SAMPLES_PER_CLASS]:
        try:
            encoded = read_bytes(out / row["path"])
            image = decode_image(encoded, at_least_px=THUMBNAIL_PX, max_pixels=sys.maxsize)
            image = to_rgb(image, background)
        except ImageProblem:  # was verified a moment ago; a card is not worth a failure
            continue
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=80)
        content = base64.b64encode(stream.getvalue()).decode()
        found.append((row["path"], f"data:image/jpeg;base64,{content}"))
    return found


def _markdown(rows: Sequence[dict[str, Any]], bars: list[Bar], facts: Verification) -> str:
    splits = _splits(rows)
    lines = [
        f"**{facts.images:,} images**, {human_bytes(facts.total_bytes)}, {len(bars)} classes",
        "",
        *(f"- **Look into this:** {markdown_text(text)}" for text in facts.warnings()),
        *(f"- {markdown_text(text)}" for text in facts.notes),
        f"- width {_range(facts.width)}, height {_range(facts.height)}",
        f"- formats: {_list(facts.formats)}; modes: {_list(facts.modes)}",
        f"- set aside: {_list(facts.rejected) or 'none'}",
        "",
        f"| class | {' | '.join(splits)} |",
        f"|---|{'--:|' * len(splits)}",
        *(
            f"| {markdown_text(bar.label)} | {' | '.join(f'{bar.counts[s]:,}' for s in splits)} |"
            for bar in bars[:MAX_CLASS_ROWS]
        ),
    ]
    if len(bars) > MAX_CLASS_ROWS:
        lines.append(f"| and {len(bars) - MAX_CLASS_ROWS} more | {' | ' * (len(splits) - 1)} |")
    return "\n".join(lines) + "\n"


def _range(values: dict[str, float]) -> str:
    return f"{values['least']:g}-{values['largest']:g} px (median {values['median']:g})"


def _list(counts: dict[str, int]) -> str:
    return markdown_text(", ".join(f"{name} {count:,}" for name, count in counts.items()))
