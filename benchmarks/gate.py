"""How often the gate lets a worse model through: 1,000 simulated pairs of models for each setting and split.

A pair answers each image of a split by chance: on DISAGREE of the images one is right and the other wrong,
and the challenger wins as many more of these as its true top-1 is higher. `python benchmarks/gate.py` writes
the tables of docs/gate.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from effnet_core.results.paired import Paired, compare_counts, refusal

PAIRS = 1000
SIZES = (100, 300, 1000, 3000, 10_000)
DIFFERENCES = (-0.02, -0.01, -0.005, 0.0, 0.01, 0.02)
"""True top-1 of the challenger less that of the champion."""
TOP1 = 0.9
DISAGREE = 0.08
PAGE = Path(__file__).parents[1] / "docs" / "gate.md"
BEGIN, END = "<!-- begin: benchmarks/gate.py -->", "<!-- end: benchmarks/gate.py -->"

Setting = Callable[[Paired], bool]


def setting(promote_if: str, margin: float) -> Setting:
    """Whether a comparison passes."""
    return lambda found: (
        not refusal(found.difference, promote_if=promote_if, margin=margin, found=found)
    )


SETTINGS: dict[str, Setting] = {
    "`not_worse`": setting("not_worse", 0.0),
    "`not_worse`, margin 0.01": setting("not_worse", 0.01),
    "`better`": setting("better", 0.0),
    "`better`, margin 0.01": setting("better", 0.01),
    "`significantly_better`": setting("significantly_better", 0.0),
}
APART = "two accuracies on two splits"
"""What the gate must not do: the higher of two top-1, each measured on images of its own."""


def draw(images: int, difference: float, *, pairs: int = PAIRS, seed: int = 0) -> list[Paired]:
    """Comparisons of so many pairs of models on ``images`` images."""
    lost, won = (DISAGREE - difference) / 2, (DISAGREE + difference) / 2
    both = TOP1 - lost
    rng = np.random.default_rng([seed, images, round(1000 * difference) + 1000])
    cells = rng.multinomial(images, [both, lost, won, 1 - both - lost - won], size=pairs)
    known: dict[tuple[int, ...], Paired] = {}
    for cell in map(tuple, cells.tolist()):
        if cell not in known:
            known[cell] = compare_counts(*cell)
    return [known[cell] for cell in map(tuple, cells.tolist())]


def passes_apart(images: int, difference: float, *, pairs: int = PAIRS) -> float:
    """Share of the pairs whose challenger has the higher top-1 on another split of the same size."""
    rng = np.random.default_rng([1, images, round(1000 * difference) + 1000])
    champion, challenger = (rng.binomial(images, p, pairs) for p in (TOP1, TOP1 + difference))
    return float((challenger >= champion).mean())


def passes(images: int, difference: float) -> dict[str, float]:
    """Share of the pairs that each setting lets through."""
    found = draw(images, difference)
    shares = {name: sum(map(decides, found)) / len(found) for name, decides in SETTINGS.items()}
    return {APART: passes_apart(images, difference), **shares}


def tables() -> str:
    """The tables, as Markdown."""
    lines = [
        f"{PAIRS:,} pairs for each cell; the champion is right on {TOP1:.0%} of the images, and on "
        f"{DISAGREE:.0%} exactly one of the two is right.",
    ]
    for difference in DIFFERENCES:
        kind = "better" if difference > 0 else "worse" if difference < 0 else "equally good"
        points = f"{abs(100 * difference):g}"
        by = f"{points} point{'' if points == '1' else 's'} {kind}" if difference else kind
        lines += ["", f"**The challenger is {by}**: how often it passes", ""]
        lines.append(f"| setting | {' | '.join(f'{n:,} images' for n in SIZES)} |")
        lines.append("|---" * (len(SIZES) + 1) + "|")
        columns = [passes(images, difference) for images in SIZES]
        for name in columns[0]:
            cells = " | ".join(f"{column[name]:.1%}" for column in columns)
            lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}")
    print(f"{PAGE} is written")


if __name__ == "__main__":
    main()
