"""False alarms and found changes of the drift measure, on scikit-learn's digits.

The features are the digits' pixels. 400 of them are held out as the reference; labellings are drawn from the
other 1,397: as they are, inverted, shifted by a quarter, or with some pictures inverted.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits

from effnet_core.results.drift import Observed, make_reference, measure

DRAWS = 100
SIZES = (25, 50, 100, 300)
CLASSES = tuple("0123456789")


def looks_of(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)


def shifted(pixels: np.ndarray) -> np.ndarray:
    return np.roll(pixels.reshape(-1, 8, 8), 2, axis=2).reshape(-1, 64)


def partly(pixels: np.ndarray, share: float) -> np.ndarray:
    changed = pixels.copy()
    count = round(share * len(pixels))
    changed[:count] = 16 - changed[:count]
    return changed


KINDS = {
    "as they are (false alarms)": lambda pixels: pixels,
    "one in ten inverted": lambda pixels: partly(pixels, 0.1),
    "one in four inverted": lambda pixels: partly(pixels, 0.25),
    "all inverted": lambda pixels: 16 - pixels,
    "all shifted by a quarter": shifted,
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    digits = load_digits()
    order = np.random.default_rng(3).permutation(len(digits.data))
    pixels, labels = digits.data[order].astype(np.float32), digits.target[order].astype(np.int64)
    reference = make_reference(
        pixels[:400],
        labels[:400],
        np.full(400, 0.9),
        looks_of(pixels[:400]),
        classes=10,
        checkpoint_sha256="",
    )
    rng = np.random.default_rng(0)
    print(
        f"| labellings that are called drifted, of {DRAWS} | {' | '.join(f'{n} pictures' for n in SIZES)} |"
    )
    print("|---" * (len(SIZES) + 1) + "|")
    for name, change in KINDS.items():
        cells = []
        for size in SIZES:
            alarms = 0
            for _ in range(DRAWS):
                chosen = 400 + rng.choice(len(pixels) - 400, size, replace=False)
                seen = change(pixels[chosen])
                parts = (seen, labels[chosen], np.full(size, 0.9), looks_of(seen), [""] * size)
                found = measure(reference, Observed.of(reference, *parts), class_names=CLASSES)
                alarms += found.drifted
            cells.append(str(alarms))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
