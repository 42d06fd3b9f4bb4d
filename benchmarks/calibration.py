"""How honest the probabilities of finished runs are, before and after calibration.

    python benchmarks/calibration.py RUN_DIR ...

For each run the temperature is fitted on one half of the images of its evaluation and measured on the other,
200 times, besides what training itself found.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.jobs.job import read_job
from effnet_core.quality.features import label_splits
from effnet_core.results import TrainResult
from effnet_core.results.calibration import calibrate, fit_temperature
from effnet_core.system.locks import scratch_folder
from effnet_core.weights.checkpoint import CLASSIFIER, MODEL_NAME, open_checkpoint

HALVES = 200


def logits_of(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits before calibration and labels of the images that the run was evaluated on."""
    checkpoint, job = open_checkpoint(run / MODEL_NAME), read_job(run)
    split = open_dataset(job.data_dir).split(TrainResult.read(run / "result.json").evaluation.split)
    with scratch_folder("calibration") as folder:
        rows = label_splits(checkpoint, [split], folder / "out", config=RunConfig())
    features = np.array([row["features"] for row in rows], np.float64)
    weight, bias = (checkpoint.load()[name].astype(np.float64) for name in CLASSIFIER)
    return (features @ weight.T + bias).astype(np.float32), split.labels


def row(run: Path) -> str:
    found = TrainResult.read(run / "result.json").evaluation
    logits, labels = logits_of(run)
    rng, halves = np.random.default_rng(0), []
    for _ in range(HALVES):
        order = rng.permutation(len(labels))
        fit, rest = np.array_split(order, 2)
        temperature = fit_temperature(logits[fit], labels[fit])
        halves.append(calibrate(logits[rest], labels[rest], temperature))
    before, after = (np.mean([getattr(h, k).ece for h in halves]) for k in ("before", "after"))
    losses = [np.mean([getattr(h, k) for h in halves]) for k in ("loss_before", "loss_after")]
    own = found.calibration
    return (
        f"| {run.name} | {found.top1:.2%} | {own.before.mean_certainty:.1%} | {own.temperature:g} | "
        f"{own.before.ece:.2%} | {own.after.ece:.2%} | {before:.2%} | {after:.2%} | "
        f"{losses[0]:.4f} | {losses[1]:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    options = parser.parse_args()
    print(
        "| run | top-1 | mean certainty before | temperature | ECE before | ECE after | other half, before | "
        "other half, after | loss, before | loss, after |"
    )
    print("|---" * 10 + "|")
    for run in options.runs:
        print(row(run), flush=True)


if __name__ == "__main__":
    main()
