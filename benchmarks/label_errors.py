"""How many planted label errors the review queue shows first.

    python benchmarks/label_errors.py RUN_DIR PLANTED.json

RUN_DIR was trained on a data set in which some labels were exchanged; PLANTED.json names their files. The
labels are ranked by confident learning as ``effnet review`` does it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.jobs.job import read_job
from effnet_core.quality.features import label_splits
from effnet_core.reports.review import suspicious
from effnet_core.system.locks import scratch_folder
from effnet_core.weights.checkpoint import MODEL_NAME, open_checkpoint

FIRST = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("planted", type=Path)
    options = parser.parse_args()
    planted = set(json.loads(options.planted.read_text()))
    dataset = open_dataset(read_job(options.run).data_dir)
    splits = [dataset.split(name) for name in dataset.counts]
    with scratch_folder("labels") as folder:
        checkpoint = open_checkpoint(options.run / MODEL_NAME)
        rows = label_splits(checkpoint, splits, folder / "out", config=RunConfig())
    labels = np.concatenate([split.labels for split in splits]).astype(np.int64)
    found = suspicious(rows, labels, dataset.class_names)
    is_planted = np.array([Path(one.path).name in planted for one in found.candidates])
    number, images = int(is_planted.sum()), len(labels)
    print(f"{number} planted errors among {images} labels, {found.suspected} suspected")
    for first in (50, FIRST, number, 2 * FIRST):
        hits = int(is_planted[:first].sum())
        at_random = first * number / images
        print(
            f"first {first}: {hits} of them ({hits / number:.0%}), at random {at_random:.1f} "
            f"({at_random / number:.0%})"
        )


if __name__ == "__main__":
    main()
