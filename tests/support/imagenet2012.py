"""A faithful miniature of ILSVRC2012: the same files in the same forms, with fewer synsets and images."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.support.images import draw, encode

SYNSETS = {
    "n02119789": "kit fox, Vulpes macrotis",
    "n02100735": "English setter",
    "n02110185": "Siberian husky",
    "n01440764": "tench, Tinca tinca",
    "n07768694": "pomegranate",
}
"""In the order of ILSVRC2012_ID, which is not that of the names."""
TRAIN_IMAGES = 4
VAL_IMAGES = 25


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def meta_mat() -> bytes:
    """``data/meta.mat``: leaves first, then a synset that only has children, as in the original."""
    names = [*SYNSETS, "n02084071"]
    kinds = [
        ("ILSVRC2012_ID", "O"),
        ("WNID", "O"),
        ("words", "O"),
        ("gloss", "O"),
        ("num_children", "O"),
        ("children", "O"),
        ("wordnet_height", "O"),
        ("num_train_images", "O"),
    ]
    rows = np.empty((len(names), 1), dtype=kinds)
    for index, name in enumerate(names):
        leaf = name in SYNSETS
        children = np.array([] if leaf else [2, 3], dtype=np.uint16)
        words = SYNSETS.get(name, "dog, domestic dog")
        rows[index, 0] = (
            index + 1,
            name,
            words,
            "gloss",
            0 if leaf else 2,
            children,
            0,
            TRAIN_IMAGES,
        )
    stream = io.BytesIO()
    savemat(stream, {"synsets": rows})
    return stream.getvalue()


def build(root: Path, *, packed: bool = True, seed: int = 1) -> dict[str, str]:
    """Write the three files that are handed out (or the folders, half unpacked).

    Returns:
        The true synset of each validation image.
    """
    root.mkdir(parents=True, exist_ok=True)
    names = list(SYNSETS)
    chance = random.Random(seed)
    numbers = [1 + index % len(names) for index in range(VAL_IMAGES)]
    chance.shuffle(numbers)
    truth = {f"ILSVRC2012_val_{n + 1:08d}.JPEG": names[i - 1] for n, i in enumerate(numbers)}

    def picture(name: str, number: int) -> bytes:
        return encode(draw(seed=number, label=names.index(name)), "JPEG")

    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for name in names:
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as inner:
                for number in range(TRAIN_IMAGES):
                    add(inner, f"{name}_{number + 7}.JPEG", picture(name, 1000 + number))
            add(outer, f"{name}.tar", stream.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for number, (file, name) in enumerate(truth.items()):
            add(archive, file, picture(name, number))
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        folder = "ILSVRC2012_devkit_t12"
        add(archive, f"{folder}/readme.txt", b"Devkit")
        add(archive, f"{folder}/data/meta.mat", meta_mat())
        lines = "".join(f"{number}\n" for number in numbers)
        add(archive, f"{folder}/data/ILSVRC2012_validation_ground_truth.txt", lines.encode())
    if not packed:
        _unpack(root)
    return truth


def _unpack(root: Path) -> None:
    for name, folder in (
        ("ILSVRC2012_img_train.tar", "train"),
        ("ILSVRC2012_img_val.tar", "val"),
        ("ILSVRC2012_devkit_t12.tar.gz", "."),
    ):
        with tarfile.open(root / name) as archive:
            archive.extractall(root / folder, filter="data")
        (root / name).unlink()
