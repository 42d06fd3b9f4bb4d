"""The figures and the picture of docs/days.md, from what the simulations have measured.

python -m benchmarks.days --out benchmarks/days.json
python -m benchmarks.queue_lift --out benchmarks/queue_lift.json
python -m benchmarks.days_page
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.queue_lift import LAST_DAY, QUEUE, RANDOM  # noqa: E402
from effnet_core.render.plots import LIGHT, render, show_percent  # noqa: E402
from effnet_core.system.files import read_json  # noqa: E402

DAYS, LIFT = ROOT / "benchmarks" / "days.json", ROOT / "benchmarks" / "queue_lift.json"
PAGE, PICTURE = ROOT / "docs" / "days.md", ROOT / "docs" / "images" / "days.png"
CHANGED = "#fbeee0"


def names_of(days: list[dict[str, Any]]) -> dict[str, str]:
    """Short names of versions, in the order in which they came into production."""
    return {v: f"v{i}" for i, v in enumerate(dict.fromkeys(day["version"] for day in days), 1)}


def picture(days: list[dict[str, Any]]) -> bytes:
    """PNG of drift, accuracy and the version in production, day by day."""
    figure = Figure(figsize=(7.2, 6.4), facecolor=LIGHT.surface, layout="constrained")
    drift, accuracy, version = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.5])
    numbers = [day["day"] for day in days]
    changed = [day["day"] for day in days if day["changed"]]
    for axes in (drift, accuracy, version):
        axes.set_facecolor(LIGHT.surface)
        axes.axvspan(changed[0] - 0.5, changed[-1] + 0.5, color=CHANGED, linewidth=0)
        axes.grid(axis="y", color=LIGHT.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(LIGHT.grid)
        axes.tick_params(colors=LIGHT.muted, labelsize=9)
        axes.yaxis.label.set_color(LIGHT.ink)
    colours = [LIGHT.second if day["drifted"] else LIGHT.first for day in days]
    drift.bar(numbers, [day["distance"] for day in days], width=0.55, color=colours)
    limits = [day["threshold"] for day in days]
    drift.step(numbers, limits, where="mid", color=LIGHT.ink, linewidth=1.4, linestyle="--")
    drift.annotate(
        "threshold",
        (numbers[0] - 0.4, limits[0]),
        xytext=(0, 5),
        textcoords="offset points",
        fontsize=9,
        color=LIGHT.ink,
    )
    drift.set_ylabel("drift")
    drift.set_title(
        "inverted and shifted from here on",
        loc="right",
        fontsize=9,
        color=LIGHT.muted,
    )
    shares = [day["accuracy"] for day in days]
    accuracy.plot(numbers, shares, marker="o", color=LIGHT.first, linewidth=2)
    for number, share in zip(numbers, shares, strict=True):
        accuracy.annotate(
            f"{share:.0%}",
            (number, share),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=LIGHT.ink,
        )
    accuracy.set_ylim(0, 1.12)
    accuracy.set_yticks([0, 0.25, 0.5, 0.75, 1])
    show_percent(accuracy.yaxis)
    accuracy.set_ylabel("right answers")
    short = names_of(days)
    places = [list(short).index(day["version"]) + 1 for day in days]
    version.step(numbers, places, where="mid", color=LIGHT.first, linewidth=2)
    version.plot(numbers, places, "o", color=LIGHT.first)
    version.set_yticks(range(1, len(short) + 1), list(short.values()))
    version.set_ylim(0.5, len(short) + 0.5)
    version.set_ylabel("production")
    version.set_xlabel("day", color=LIGHT.ink)
    version.set_xticks(numbers)
    return render(figure)


def table_of_days(days: list[dict[str, Any]]) -> str:
    """What happened each day."""
    short = names_of(days)
    lines = [
        "| day | production | right answers | drift | threshold | event | reviewed, of these wrong "
        "| the gate at night |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for day in days:
        event = "`effnet.drift`" if day["drifted"] else ""
        seen = f"{day['reviewed']}, {day['wrong']}" if day["reviewed"] else ""
        lines.append(
            f"| {day['day']} | {short[day['version']]} | {day['accuracy']:.1%} | {day['distance']:.2f} | "
            f"{day['threshold']:.2f} | {event} | {seen} | {_in_short(day['night'])} |"
        )
    return "\n".join(lines)


def _in_short(night: str) -> str:
    found = re.search(r"(\d+) images won and (\d+) lost of (\d+)", night)
    if found is None:
        return ""
    won, lost, images = found.groups()
    verdict = "promoted" if int(won) > int(lost) else "kept out"
    return f"{verdict}: {won} won, {lost} lost of {images}"


def table_of_lift(rows: list[dict[str, Any]]) -> str:
    """What 50 labels are worth, seed by seed."""
    ways = (QUEUE, RANDOM, LAST_DAY)
    lines = [
        f"| seed | before | {' | '.join(f'50 of {way}' if way == QUEUE else f'50 {way}' for way in ways)} |",
        "|---" * (2 + len(ways)) + "|",
    ]
    for row in rows:
        cells = [f"{row['after'][way]:.1%} ({row['changed'][way]})" for way in ways]
        lines.append(f"| {row['seed']} | {row['before']:.1%} | {' | '.join(cells)} |")
    means = [statistics.mean(row["after"][way] for row in rows) for way in ways]
    before = statistics.mean(row["before"] for row in rows)
    lines.append(f"| mean | {before:.1%} | {' | '.join(f'**{mean:.1%}**' for mean in means)} |")
    return "\n".join(lines)


def replaced(text: str, name: str, table: str) -> str:
    """The page with a table between its marks."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{table}\n{end}{tail}"


def page(text: str, days: list[dict[str, Any]], lift: list[dict[str, Any]]) -> str:
    """The page with both tables."""
    return replaced(replaced(text, "days", table_of_days(days)), "lift", table_of_lift(lift))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    days, lift = read_json(DAYS)["days"], read_json(LIFT)
    PICTURE.write_bytes(picture(days))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), days, lift), encoding="utf-8")


if __name__ == "__main__":
    main()
