"""Time to accuracy from a folder of pictures: ``effnet train PHOTOS --minutes M`` against torch + timm.

Both start from the same ImageNet weights of Lite0, may take the same minutes from the start of the command
(ours stages the pictures in them), choose by the same validation images, and are measured once on a split
``test`` that neither looks at. timm's side is ``timm_finetune.py``; of its ``RATES`` the better one on the
validation images counts.

    python benchmarks/first_hour.py --torch PYTHON --set clipart=FOLDER --set digits --minutes 2 --seeds 3

``PYTHON`` is an interpreter with torch and timm (``make peers`` makes one), ``FOLDER`` holds class folders.
What is measured is kept in ``--work``; a second start measures what is missing there, so ``--runs 2`` can be
repeated on a machine that is quiet for minutes only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

RATES = (1e-3, 3e-4)
"""Peak rates of timm's AdamW."""
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
OURS, OTHER = "effnet train", "torch + timm"
Answer = dict[str, Any]
"""``test``: top-1 in the end; ``curve``: seconds and validation top-1; ``seconds``."""


def split(source: Path, out: Path, seed: int) -> None:
    """Copy pictures into ``out/{train,val,test}/CLASS``."""
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        pictures = sorted(path for path in folder.iterdir() if path.is_file())
        random.Random(seed).shuffle(pictures)
        start = 0
        for name, share in SHARES.items():
            stop = len(pictures) if name == "test" else start + round(share * len(pictures))
            (out / name / folder.name).mkdir(parents=True)
            for path in pictures[start:stop]:
                shutil.copyfile(path, out / name / folder.name / path.name)
            start = stop


def pictures_of(name: str, folder: Path) -> Path:
    """The class folders of a set: NAME=FOLDER, or the demo's digits."""
    if "=" in name:
        return Path(name.partition("=")[2])
    from effnet_core.data.digits import write_digits

    whole = folder / "all-digits"
    if whole.exists():
        return whole
    write_digits(folder / "digits")
    for path in sorted((folder / "digits" / "labelled").rglob("*.png")):
        (whole / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, whole / path.parent.name / f"{path.parents[1].name}-{path.name}")
    return whole


def ours(pictures: Path, run_dir: Path, minutes: float, *, cache: Path) -> Answer:
    """One command in a process of its own, then its models on the split ``test``."""
    from effnet_core import api
    from effnet_core.auto.places import staged_folder
    from effnet_core.system.files import read_json, read_jsonl

    _fresh_cache(cache)
    started, before_s = time.time(), _cpu_of_children()
    command = [sys.executable, "-m", "effnet_core", "train", str(pictures), "--run-dir"]
    subprocess.run(
        [*command, str(run_dir), "--minutes", str(minutes)],
        check=True,
        env=os.environ | {"EFFNET_CACHE_DIR": str(cache)},
    )
    seconds, cpu_s = time.time() - started, _cpu_of_children() - before_s
    probe = run_dir / "probe" / "result.json"
    curve = [(probe.stat().st_mtime - started, read_json(probe)["evaluation"]["top1"])]
    metrics = run_dir / "metrics.jsonl"
    for row in read_jsonl(metrics) if metrics.exists() else []:
        if row["kind"] == "eval":
            curve.append((row["time"] - started, row["top1"]))
    data = staged_folder(pictures, run_dir)
    test = {name: api.evaluate(run_dir / name, data, split="test").top1 for name in ("", "probe")}
    found = {"test": test[""], "probe": test["probe"], "curve": curve}
    return {**found, "seconds": seconds, "cpu_s": cpu_s}


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _fresh_cache(cache: Path) -> None:
    """A cache without files of engines and features; the operators, built once on a machine, are there."""
    from effnet_core.storage.cache import cache_path

    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(mode=0o700)
    if cache_path("operators").is_dir():
        shutil.copytree(cache_path("operators"), cache / "operators")


def theirs(python: Path, data: Path, weights: Path, **job: Any) -> Answer:
    """One fine-tuning by timm, in a process of its own."""
    from effnet_core.data.manifest import open_dataset

    dataset = open_dataset(data)
    job["pictures"] = {
        name: [
            (str(data / path), int(label))
            for path, label in zip(part.paths, part.labels, strict=True)
        ]
        for name in SHARES
        for part in [dataset.split(name)]
    }
    job["started"] = time.time()
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("timm_finetune.py"))],
        input=json.dumps({**job, "classes": dataset.num_classes, "weights": str(weights)}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: Answer = json.loads(done.stdout.splitlines()[-1])
    return {"rate": job["rate"], **answer}


def converted_weights(work: Path) -> Path:
    """Lite0's ImageNet weights under timm's names."""
    path = work / "lite0.safetensors"
    if not path.exists():
        convert = ["weights", "convert", "efficientnet_lite0", "--to", "timm", "--out", str(path)]
        subprocess.run([sys.executable, "-m", "effnet_core", *convert], check=True)
    return path


def missing(sets: list[str], seeds: int, work: Path) -> Iterator[tuple[str, int, str]]:
    """Runs that have not been measured: set, seed and side; the further rates of timm come last."""
    pairs = ["ours", f"timm-{RATES[0]:g}"]
    for sides in (pairs, [f"timm-{rate:g}" for rate in RATES[1:]]):
        for seed, name, side in product(range(seeds), sets, sides):
            if not (work / f"{name.partition('=')[0]}-{seed}-{side}.json").exists():
                yield name, seed, side


def measure(name: str, seed: int, side: str, options: argparse.Namespace) -> None:
    """One side on one set and seed; its answer goes into a file of its own."""
    from effnet_core.auto.places import staged_folder

    title = name.partition("=")[0]
    work = options.work / f"{title}-{seed}"
    if not work.exists():
        split(pictures_of(name, options.work), work / "pictures", seed)
    pictures, run_dir, cache = work / "pictures", work / "runs" / "run", options.work / "cache"
    if side == "ours":
        shutil.rmtree(work / "runs", ignore_errors=True)
        found = ours(pictures, run_dir, options.minutes, cache=cache)
    else:
        rate = float(side.partition("-")[2])
        job = {"rate": rate, "seed": seed, "minutes": options.minutes}
        data = staged_folder(pictures, run_dir)
        found = theirs(options.torch, data, converted_weights(options.work), **job)
    _keep(options.work / f"{title}-{seed}-{side}.json", found)


def _keep(path: Path, answer: Answer) -> None:
    print(path.stem, {key: answer[key] for key in answer if key != "curve"}, flush=True)
    path.write_text(json.dumps(answer))


def collect(titles: list[str], seeds: int, work: Path) -> dict[str, dict[str, list[Answer]]]:
    """What has been measured, by set and side: one answer a seed, of timm that of the better rate."""
    found: dict[str, dict[str, list[Answer]]] = {}
    for title, seed in product(titles, range(seeds)):
        sides = found.setdefault(title, {OURS: [], OTHER: []})
        mine = work / f"{title}-{seed}-ours.json"
        others = [json.loads(path.read_text()) for path in work.glob(f"{title}-{seed}-timm-*.json")]
        if mine.exists() and others:
            sides[OURS].append(json.loads(mine.read_text()))
            sides[OTHER].append(max(others, key=lambda a: max(top1 for _, top1 in a["curve"])))
    return {title: sides for title, sides in found.items() if sides[OURS]}


def draw(found: dict[str, dict[str, list[Answer]]], path: Path) -> None:
    """Validation top-1 over seconds, a picture a set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from effnet_core.render.plots import DPI, LIGHT

    figure = Figure(figsize=(4.2 * len(found), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, sides) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        for (side, answers), color in zip(sides.items(), (LIGHT.first, LIGHT.second), strict=True):
            label: str | None = side
            for answer in answers:
                seconds, top1 = zip(*answer["curve"], strict=True)
                axes.plot(seconds, top1, color=color, marker="o", ms=4, lw=1.4, label=label)
                label = None
        axes.set(title=name, xlabel="seconds from the command", ylabel="top-1, validation")
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(color=LIGHT.grid)
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=DPI)


def report(found: dict[str, dict[str, list[Answer]]], minutes: float, picture: str) -> list[str]:
    """The note's lines."""
    lines = [
        f"{minutes:g} minutes from the command for each; top-1 on a split that neither has looked at, and "
        "the seconds after which the probe's model was there. Medians over seeds, ranges in brackets; "
        f"of timm's peak rates ({', '.join(f'{rate:g}' for rate in RATES)}) the better one on the "
        "validation images counts.",
        "",
        "| set | seeds | effnet train | its probe alone | s to the probe | s in all | torch + timm | "
        "epochs of it | s in all | rate |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, sides in found.items():
        mine, other = sides.values()
        cells = [
            _span([answer["test"] for answer in mine]),
            _span([answer["probe"] for answer in mine]),
            f"{statistics.median(answer['curve'][0][0] for answer in mine):.0f}",
            f"{statistics.median(answer['seconds'] for answer in mine):.0f}",
            _span([answer["test"] for answer in other]),
            f"{statistics.median(answer['epochs'] for answer in other):.1f}",
            f"{statistics.median(answer['seconds'] for answer in other):.0f}",
            ", ".join(sorted({f"{answer['rate']:g}" for answer in other})),
        ]
        lines.append(f"| {name} | {len(mine)} | {' | '.join(cells)} |")
    return [*lines, "", f"![validation top-1 over seconds]({picture})"]


def _span(values: list[float]) -> str:
    middle = f"{statistics.median(values):.1%}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1%} - {max(values):.1%})"


def main() -> None:
    """Measure what is missing, draw, and write the note of what is there."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--torch", type=Path, help="interpreter with torch and timm")
    reader.add_argument("--set", action="append", dest="sets", metavar="NAME[=FOLDER]")
    reader.add_argument("--minutes", type=float, default=2.0)
    reader.add_argument("--seeds", type=int, default=3)
    reader.add_argument("--runs", type=int, default=1_000, help="to measure in this start")
    reader.add_argument("--note", default="", help="what else readers must know, for the report")
    reader.add_argument("--work", type=Path, default=Path("build/first_hour"))
    options = reader.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    from machine import picture_path, write_note

    sets = options.sets or ["digits"]
    titles = [name.partition("=")[0] for name in sets]
    for name, seed, side in islice(missing(sets, options.seeds, options.work), options.runs):
        measure(name, seed, side, options)
    found = collect(titles, options.seeds, options.work)
    if found:
        picture = picture_path(__file__)
        draw(found, picture)
        lines = report(found, options.minutes, picture.name)
        write_note(
            __file__, "The first minutes", [options.note, "", *lines] if options.note else lines
        )


if __name__ == "__main__":
    main()
