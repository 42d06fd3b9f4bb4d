"""ILSVRC2012 as it is handed out, brought into class folders.

Training images are a tar file of one tar file a synset; validation images lie flat, and the devkit says
which synset each belongs to, by a number that only its ``meta.mat`` translates.
"""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.data.sources.archives import DAMAGE, tar_members
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.storage.addresses import require_name
from effnet_core.system.files import atomic_path, require_space, write_json
from effnet_core.text import os_reason

TOPIC = "stage"
TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_TARS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar")
DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
SYNSETS_NAME = "synsets.json"
SYNSET = re.compile(r"n\d{8}")
VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.(?:JPEG|jpeg|jpg|JPG)")
DEVKIT_BYTES = 500_000_000
"""A devkit's file is never larger."""


@dataclass(frozen=True)
class Devkit:
    """What the devkit says."""

    synset_of_number: dict[int, str]
    """Synset by ILSVRC2012_ID; leaves only."""
    words: dict[str, str]
    """Names of each synset, comma-separated."""
    truth: tuple[int, ...]
    """ILSVRC2012_ID of each validation image, in the order of their numbers."""


def is_imagenet2012(root: Path) -> bool:
    """Whether a folder holds the files of ILSVRC2012, packed or half unpacked."""
    if (root / TRAIN_TAR).is_file():
        return True
    flat = any(VAL_IMAGE.fullmatch(path.name) for path in _some_files(root / "val"))
    return flat and (_devkit_of(root) is not None)


def unpack_imagenet2012(root: Path, out: Path) -> Path:
    """Bring ILSVRC2012 into ``out/train/SYNSET/*`` and ``out/val/SYNSET/*``.

    Files that are there already with the right size are kept, so a cut run continues.

    Args:
        root: holds ``ILSVRC2012_img_train.tar`` (or ``train/SYNSET.tar``, or ``train/SYNSET/*``),
            ``ILSVRC2012_img_val.tar`` (or ``val/*.JPEG``) and the devkit, packed or not.
        out: the folder; also gets ``synsets.json`` with the names of each synset.

    Raises:
        DataError: a file is missing or damaged, a validation image has no truth, or the disk is full.
    """
    devkit = read_devkit(root)
    archives = [path for path in (root / TRAIN_TAR, root / VAL_TAR) if path.is_file()]
    require_space(out, sum(path.stat().st_size for path in archives), what="unpacking ILSVRC2012")
    try:
        known = frozenset(devkit.synset_of_number.values())
        _unpack_train(root, out / "train", known)
        _unpack_val(root, out / "val", devkit)
        write_json(out / SYNSETS_NAME, dict(sorted(devkit.words.items())))
    except DAMAGE as cause:
        raise DataError(
            f"an archive of {root} is damaged or cut ({' '.join(str(cause).split())}); fetch it again"
        ) from cause
    except OSError as cause:
        place = f" at {cause.filename}" if cause.filename else ""
        raise DataError(f"ILSVRC2012 cannot be unpacked{place} ({os_reason(cause)})") from cause
    return out


def read_devkit(root: Path) -> Devkit:
    """The devkit of a folder, from its archive or unpacked.

    Raises:
        DataError: it is missing or does not fit together.
    """
    place = _devkit_of(root)
    if place is None:
        raise DataError(
            f"{root} has no devkit ({DEVKIT_TARS[0]}, or {DEVKIT_FOLDER}/data/{META} and {GROUND_TRUTH}), "
            "which says the class of each validation image; put it there"
        )
    try:
        files = _devkit_files(place)
        truth = tuple(int(line) for line in files[GROUND_TRUTH].split())
        numbers, words = _read_meta(files[META])
    except KeyError as cause:
        raise DataError(f"devkit {place} has no {cause.args[0]}; fetch it again") from cause
    except (*DAMAGE, ValueError, TypeError, OSError) as cause:
        raise DataError(
            f"devkit {place} is damaged ({' '.join(str(cause).split())[:100]}); fetch it again"
        ) from cause
    unknown = sorted(set(truth) - set(numbers))
    if unknown or not truth:
        raise DataError(
            f"devkit {place} does not fit together: {GROUND_TRUTH} has the class numbers {unknown[:5]}, "
            f"and {META} has no synset for them"
        )
    return Devkit(numbers, words, truth)


def _devkit_of(root: Path) -> Path | None:
    for name in (*DEVKIT_TARS, DEVKIT_FOLDER):
        if (root / name).exists():
            return root / name
    return root if (root / "data" / META).is_file() else None


def _devkit_files(place: Path) -> dict[str, bytes]:
    if place.is_dir():
        return {name: (place / "data" / name).read_bytes() for name in (META, GROUND_TRUTH)}
    found = {}
    with place.open("rb") as stream:
        for member, content in tar_members(stream):
            name = member.name.rpartition("/")[2]
            if name in (META, GROUND_TRUTH) and content and member.size_bytes < DEVKIT_BYTES:
                found[name] = content.read()
    return found


def _read_meta(content: bytes) -> tuple[dict[int, str], dict[str, str]]:
    """Synset by number and words by synset, of the synsets without children."""
    import io

    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        rows: Any = loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=True)["synsets"]
    except (MatReadError, IndexError) as cause:
        raise ValueError(f"{META} is no MATLAB file") from cause
    leaves = [row for row in rows.reshape(-1) if int(row["num_children"]) == 0]
    numbers = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
    words = {str(row["WNID"]): str(row["words"]) for row in leaves}
    bad = [name for name in words if not SYNSET.fullmatch(name)]
    if bad:
        raise ValueError(f"{bad[0]!r} is not a synset")
    return numbers, words


def _unpack_train(root: Path, out: Path, known: frozenset[str]) -> None:
    if (root / TRAIN_TAR).is_file():
        with (root / TRAIN_TAR).open("rb") as stream:
            for member, content in tar_members(stream):
                if content is not None:
                    _unpack_synset(member.name, content, out, known)
        return
    tars = sorted((root / "train").glob("*.tar"))
    for path in tars:
        with path.open("rb") as content:
            _unpack_synset(path.name, content, out, known)
    if not tars:
        folders = sorted(path for path in (root / "train").glob("n*") if path.is_dir())
        if not folders:
            raise DataError(
                f"{root} has neither {TRAIN_TAR} nor train/SYNSET.tar nor train/SYNSET folders; put the "
                "training images there"
            )
        for folder in folders:
            for path in sorted(folder.iterdir()):
                _link(path, out / _synset(folder.name, known) / path.name)


def _unpack_synset(name: str, stream: Any, out: Path, known: frozenset[str]) -> None:
    synset = _synset(name.rpartition("/")[2].removesuffix(".tar"), known)
    count = 0
    for member, content in tar_members(stream):
        if content is not None:
            _write(content, out / synset / _flat(member.name), member.size_bytes)
            count += 1
    emit(Event(TOPIC, f"unpacked {count:,} training images of {synset}"))


def _unpack_val(root: Path, out: Path, devkit: Devkit) -> None:
    count = 0
    if (root / VAL_TAR).is_file():
        with (root / VAL_TAR).open("rb") as stream:
            for member, content in tar_members(stream):
                if content is not None:
                    name = _flat(member.name)
                    _write(content, out / _true_synset(name, devkit) / name, member.size_bytes)
                    count += 1
    else:
        for path in sorted(_some_files(root / "val")):
            _link(path, out / _true_synset(path.name, devkit) / path.name)
            count += 1
    if count != len(devkit.truth):
        raise DataError(
            f"{root} has {count:,} validation images, and the devkit knows {len(devkit.truth):,}; fetch "
            f"{VAL_TAR} again, or the devkit that belongs to it"
        )


def _true_synset(name: str, devkit: Devkit) -> str:
    found = VAL_IMAGE.fullmatch(name)
    number = int(found[1]) if found else 0
    if not 1 <= number <= len(devkit.truth):
        raise DataError(
            f"validation image {name!r} has no line in {GROUND_TRUTH}; its name must be "
            f"ILSVRC2012_val_00000001.JPEG to ..._{len(devkit.truth):08d}.JPEG"
        )
    return devkit.synset_of_number[devkit.truth[number - 1]]


def _synset(name: str, known: frozenset[str]) -> str:
    if name not in known:
        raise DataError(
            f"training folder or archive {name!r} is not a synset of the devkit; remove it, or put the "
            "devkit there that belongs to it"
        )
    return name


def _flat(name: str) -> str:
    try:
        return require_name(name).rpartition("/")[2]
    except ValueError as reason:
        raise DataError(
            f"an archive of ILSVRC2012 is refused: it has a member with {reason}"
        ) from None


def _write(content: Any, path: Path, size: int) -> None:
    if path.is_file() and path.stat().st_size == size:
        return
    with atomic_path(path) as temporary:
        data = content.read()
        if len(data) != size:
            raise tarfile.ReadError(f"{path.name} has {len(data):,} of {size:,} bytes")
        temporary.write_bytes(data)


def _link(source: Path, target: Path) -> None:
    from effnet_core.system.files import link_or_copy

    if not target.exists():
        link_or_copy(source, target)


def _some_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
