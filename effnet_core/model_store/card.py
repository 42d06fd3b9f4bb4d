"""What is written beside a published checkpoint for people: a card with curves, and where it was made."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Any

from effnet_core import __version__
from effnet_core.results import EvalResult
from effnet_core.results.paired import Paired
from effnet_core.weights.checkpoint import Sidecar
from effnet_core.weights.quantized import Quantized

CARD_NAME = "MODEL_CARD.md"
ENVIRONMENT_NAME = "environment.json"
LOSS_NAME = "loss.png"
ACCURACY_NAME = "accuracy.png"
LIBRARIES = ("mindspore", "numpy", "pillow", "onnx", "onnxruntime", "prefect", "boto3", "pyarrow")
MAX_CLASSES = 50
MAX_CONFUSIONS = 5


def describe(
    name: str,
    version: str,
    sidecar: Sidecar,
    evaluation: EvalResult,
    metrics: list[dict[str, Any]],
    found: Paired | None = None,
) -> dict[str, bytes]:
    """The card, its curves and the environment, as files by name.

    Args:
        name: of the model.
        version: that is published.
        sidecar: of its checkpoint.
        evaluation: what the gate decides on.
        metrics: rows of ``metrics.jsonl``; without any there are no curves.
        found: how it compares with production on the same images.
    """
    from effnet_core.render import plots

    files = {ENVIRONMENT_NAME: _json(environment())}
    if plots.select_points(metrics, "train", x="step", y="loss"):
        files[LOSS_NAME] = plots.loss_curve(metrics)
    if plots.select_points(metrics, "eval", x="epoch", y="top1"):
        files[ACCURACY_NAME] = plots.accuracy_curve(metrics)
    files[CARD_NAME] = _card(name, version, sidecar, evaluation, set(files), found).encode()
    return files


def environment() -> dict[str, Any]:
    """Where a version was published: this project, Python, system and libraries."""
    return {
        "effnet_flows": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _card(
    name: str,
    version: str,
    sidecar: Sidecar,
    evaluation: EvalResult,
    pictures: set[str],
    found: Paired | None,
) -> str:
    pre = sidecar.preprocess
    top5 = "" if evaluation.top5 is None else f", top-5 {evaluation.top5:.2%}"
    lines = [
        f"# {name} {version}",
        "",
        f"{sidecar.variant}, {sidecar.num_classes} classes: **top-1 {evaluation.top1:.2%}**{top5} on "
        f"{evaluation.seen:,} images of split {evaluation.split} (loss {evaluation.loss:.4f}).",
        "",
        "| | |",
        "|---|---|",
        f"| trained on | data set {sidecar.data_digest[:12] or 'unknown'} |",
        f"| measured on | data set {evaluation.data_digest[:12] or 'unknown'} |",
        f"| epochs, steps | {sidecar.epoch}, {sidecar.step} |",
        f"| input | {pre.image_size} px, centre crop {pre.crop_pct:g}, {pre.interpolation} |",
        f"| mean, std | {_numbers(pre.mean)}; {_numbers(pre.std)} |",
        f"| started from | {_plain(sidecar.source) or 'random weights'} |",
        f"| probabilities | {_calibration(sidecar, evaluation)} |",
        *([f"| int8 | {Quantized.from_dict(sidecar.int8)} |"] if sidecar.int8 else []),
        f"| checkpoint SHA-256 | `{sidecar.sha256}` |",
        f"| made with | {_plain(', '.join(f'{k} {v}' for k, v in sidecar.libraries.items()))} |",
        "",
    ]
    if found is not None:
        lines += [*comparison_lines(found), ""]
    for picture, title in ((LOSS_NAME, "Loss"), (ACCURACY_NAME, "Accuracy")):
        if picture in pictures:
            lines += [f"![{title}]({picture})", ""]
    if confused := _confusions(evaluation):
        lines += ["Most often confused (true class, answer, images):", "", *confused, ""]
    names = [_plain(name) for name in sidecar.class_names]
    more = f" and {len(names) - MAX_CLASSES} more" if len(names) > MAX_CLASSES else ""
    lines += [f"Classes: {', '.join(names[:MAX_CLASSES])}{more}", ""]
    return "\n".join(lines)


def comparison_lines(found: Paired) -> list[str]:
    """A comparison of a version with production, as Markdown."""
    lines = [
        f"On the same {found.images:,} images, {_plain(found.champion) or 'production'} has top-1 "
        f"{found.champion_top1:.2%} and this version {found.challenger_top1:.2%}: {found.in_words()}.",
    ]
    if found.classes:
        lines += [
            "",
            "| class | images | production | this version | difference |",
            "|---|---|---|---|---|",
        ]
    for row in found.classes:
        old, new = row.champion / row.images, row.challenger / row.images
        lines.append(
            f"| {_plain(row.name)} | {row.images:,} | {old:.1%} | {new:.1%} | {row.difference:+.1%} |"
        )
    return lines


def _calibration(sidecar: Sidecar, evaluation: EvalResult) -> str:
    """What is known of the probabilities."""
    found = evaluation.calibration
    if found is None:
        return "not checked"
    before = f"expected calibration error {found.before.ece:.2%}"
    if found.refused is not None:
        return f"as the network gives them (temperature {found.refused:g} did not help), {before}"
    if sidecar.temperature == 1.0:
        return f"not calibrated, {before}"
    return f"calibrated, temperature {sidecar.temperature:g}; {before} before, {found.after.ece:.2%} after"


def _confusions(evaluation: EvalResult) -> list[str]:
    names = evaluation.class_names
    found = evaluation.confusion.mistakes()[:MAX_CONFUSIONS]
    return [f"- {_plain(names[true])}, {_plain(names[answer])}, {n}" for true, answer, n in found]


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _plain(text: str) -> str:
    """Names without what Markdown would read as markup."""
    for mark in ("\\", "|", "`", "*", "_", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.replace("<", "&lt;").split())


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
