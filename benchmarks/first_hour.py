"""Time to accuracy from a folder of pictures: ``effnet train PHOTOS --minutes M`` against torch + timm.

Both start from the same ImageNet weights of Lite0, may take the same minutes from the start of the command,
choose by the same validation images, and are measured once on a split ``test`` that neither looks at. timm's
is AdamW with one cycle over the whole network, each of ``RATES`` in a run of its own; the best on the
validation images counts.

    python benchmarks/first_hour.py --torch PYTHON --set clipart=FOLDER --set digits --minutes 3 --seeds 3

``PYTHON`` is an interpreter with torch and timm (``make peers`` makes one), ``FOLDER`` holds class folders.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RATES = (1e-3, 3e-4)
"""Peak rates of timm's AdamW."""
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
SIZE, BATCH = 224, 32
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

    write_digits(folder / "digits")
    whole = folder / "all-digits"
    for path in sorted((folder / "digits" / "labelled").rglob("*.png")):
        (whole / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, whole / path.parent.name / f"{path.parents[1].name}-{path.name}")
    return whole


def ours(data: Path, run_dir: Path, minutes: float) -> Answer:
    """One command in a process of its own, then its model on the split ``test``."""
    from effnet_core import api
    from effnet_core.system.files import read_json, read_jsonl

    started = time.time()
    command = [sys.executable, "-m", "effnet_core", "train", str(data), "--run-dir", str(run_dir)]
    subprocess.run([*command, "--minutes", str(minutes)], check=True)
    seconds = time.time() - started
    probe = run_dir / "probe" / "result.json"
    first = read_json(probe)["evaluation"]["top1"]
    curve = [(probe.stat().st_mtime - started, first)]
    for row in read_jsonl(run_dir / "metrics.jsonl"):
        if row["kind"] == "eval":
            curve.append((row["time"] - started, row["top1"]))
    test = {name: api.evaluate(run_dir / name, data, split="test").top1 for name in ("", "probe")}
    return {"test": test[""], "probe": test["probe"], "curve": curve, "seconds": seconds}


def theirs(python: Path, data: Path, weights: Path, seed: int, minutes: float) -> Answer:
    """Each rate in a process of its own; the best by validation."""
    from effnet_core.data.manifest import open_dataset

    dataset = open_dataset(data)
    listed = {
        name: [
            (str(data / path), int(label))
            for path, label in zip(part.paths, part.labels, strict=True)
        ]
        for name in SHARES
        for part in [dataset.split(name)]
    }
    found = []
    for rate in RATES:
        job = {
            "pictures": listed,
            "classes": dataset.num_classes,
            "weights": str(weights),
            "rate": rate,
            "seed": seed,
            "minutes": minutes,
        }
        done = subprocess.run(
            [str(python), __file__, "--as-timm"],
            input=json.dumps(job),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found.append({"rate": rate, **json.loads(done.stdout.splitlines()[-1])})
    return max(found, key=lambda answer: max(top1 for _, top1 in answer["curve"]))


def as_timm() -> None:
    """The other side: reads a job from its input, prints its answer."""
    started = time.time()
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import transforms

    job = json.load(sys.stdin)
    torch.manual_seed(job["seed"])
    rng = random.Random(job["seed"])
    weights = load_file(job["weights"])
    head = [name for name in weights if name.startswith("classifier")]
    model = timm.create_model("tf_efficientnet_lite0", num_classes=job["classes"])
    model.load_state_dict({k: v for k, v in weights.items() if k not in head}, strict=False)
    model = model.to(memory_format=torch.channels_last)
    last = [transforms.ToTensor(), transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3)]
    cubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(SIZE, (0.5, 1.0), interpolation=cubic)
    train = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *last])
    evaluate = transforms.Compose(
        [transforms.Resize(256, cubic), transforms.CenterCrop(SIZE), *last]
    )

    def batch(items: list[Any], transform: Any) -> Any:
        images = [transform(_opaque(Image.open(path))) for path, _ in items]
        return torch.stack(images).to(memory_format=torch.channels_last), torch.tensor(
            [label for _, label in items]
        )

    def accuracy(name: str) -> float:
        model.eval()
        items, right = job["pictures"][name], 0
        with torch.inference_mode():
            for start in range(0, len(items), BATCH):
                images, labels = batch(items[start : start + BATCH], evaluate)
                right += int((model(images).argmax(1) == labels).sum())
        return right / len(items)

    optimizer = torch.optim.AdamW(model.parameters(), lr=job["rate"], weight_decay=0.01)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    limit_s, curve, best, kept = 60 * job["minutes"], [], -1.0, None
    evaluation_s = 0.0
    while time.time() - started < limit_s - evaluation_s:
        items = list(job["pictures"]["train"])
        rng.shuffle(items)
        model.train()
        for start in range(0, len(items) - BATCH + 1, BATCH):
            share = (time.time() - started) / (limit_s - evaluation_s)
            if share >= 1:
                break
            rise = min(1.0, share / 0.1)
            rate = job["rate"] * (rise if share < 0.1 else 1 - (share - 0.1) / 0.9)
            for group in optimizer.param_groups:
                group["lr"] = rate
            images, labels = batch(items[start : start + BATCH], train)
            optimizer.zero_grad()
            loss_of(model(images), labels).backward()
            optimizer.step()
        before = time.time()
        top1 = accuracy("val")
        evaluation_s = max(evaluation_s, time.time() - before)
        curve.append((time.time() - started, top1))
        if top1 > best:
            best, kept = top1, {k: v.clone() for k, v in model.state_dict().items()}
    seconds = time.time() - started
    model.load_state_dict(kept)
    print(json.dumps({"test": accuracy("test"), "curve": curve, "seconds": seconds}))


def _opaque(image: Any) -> Any:
    """On white, as this project lays transparent pictures."""
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


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
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(color=LIGHT.grid)
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=DPI)


def report(found: dict[str, dict[str, list[Answer]]], minutes: float, picture: str) -> list[str]:
    """The note's lines."""
    lines = [
        f"{minutes:g} minutes from the command for each; top-1 on a split that neither has looked at, and "
        "the seconds after which the probe's model was there. Medians over seeds, ranges in brackets.",
        "",
        "| set | seeds | effnet train | its probe alone | seconds to the probe | torch + timm |",
        "|---|---|---|---|---|---|",
    ]
    for name, sides in found.items():
        mine, other = sides.values()
        cells = [
            _span([answer["test"] for answer in mine]),
            _span([answer["probe"] for answer in mine]),
            f"{statistics.median(answer['curve'][0][0] for answer in mine):.0f}",
            _span([answer["test"] for answer in other]),
        ]
        lines.append(f"| {name} | {len(mine)} | {' | '.join(cells)} |")
    return [*lines, "", f"![validation top-1 over seconds]({picture})"]


def _span(values: list[float]) -> str:
    middle = f"{statistics.median(values):.1%}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1%} - {max(values):.1%})"


def main() -> None:
    """Run both on every set, draw, and write the note."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--as-timm", action="store_true", help=argparse.SUPPRESS)
    reader.add_argument("--torch", type=Path, help="interpreter with torch and timm")
    reader.add_argument("--set", action="append", dest="sets", metavar="NAME[=FOLDER]")
    reader.add_argument("--minutes", type=float, default=3.0)
    reader.add_argument("--seeds", type=int, default=3)
    options = reader.parse_args()
    if options.as_timm:
        as_timm()
        return
    from machine import picture_path, write_note

    from effnet_core.data.staging import stage_dataset

    found: dict[str, dict[str, list[Answer]]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        weights = folder / "lite0.safetensors"
        convert = [
            "weights",
            "convert",
            "efficientnet_lite0",
            "--to",
            "timm",
            "--out",
            str(weights),
        ]
        subprocess.run([sys.executable, "-m", "effnet_core", *convert], check=True)
        for name in options.sets or ["digits"]:
            source = pictures_of(name, folder)
            sides = found[name.partition("=")[0]] = {"effnet train": [], "torch + timm": []}
            for seed in range(options.seeds):
                work = folder / f"{name.partition('=')[0]}-{seed}"
                split(source, work / "pictures", seed)
                stage_dataset(work / "pictures", work / "data")
                mine = ours(work / "data", work / "run", options.minutes)
                sides["effnet train"].append(mine)
                print(name, seed, mine, flush=True)
                other = theirs(options.torch, work / "data", weights, seed, options.minutes)
                sides["torch + timm"].append(other)
                print(name, seed, other, flush=True)
    picture = picture_path(__file__)
    draw(found, picture)
    write_note(__file__, "The first minutes", report(found, options.minutes, picture.name))


if __name__ == "__main__":
    main()
