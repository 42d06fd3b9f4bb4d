"""Bring labelled images from wherever they live into a staged data set, once, each of them verified.

A staged data set holds nothing that training could stumble over: each file was decoded in full, and
what could not be is set aside in ``rejected.jsonl`` with its reason.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from effnet_core.data.card import write_card
from effnet_core.data.encoded import is_whole_png
from effnet_core.data.formats import TRAIN, VAL, Candidate
from effnet_core.data.imagenet2012 import SYNSETS_NAME
from effnet_core.data.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    TRAINABLE_FORMATS,
    WHITE,
    Colour,
    ImageProblem,
    decode_image,
    is_one_colour,
    to_rgba,
)
from effnet_core.data.manifest import (
    CLASSES_NAME,
    DATASET_NAME,
    MANIFEST_NAME,
    REJECTED_NAME,
    Dataset,
    image_id,
    open_dataset,
    rows_digest,
    write_manifest,
)
from effnet_core.data.sources import Source, open_source
from effnet_core.data.verification import VERIFICATION_NAME, Verification, verify_rows
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.files import (
    append_jsonl,
    atomic_path,
    clone,
    link_or_copy,
    read_json,
    read_jsonl,
    refuse_os_errors,
    require_empty_or_own,
    require_space,
    sha256_of_file,
    sha256_of_text,
    write_json,
)
from effnet_core.locks import sole_user
from effnet_core.machine import available_cores
from effnet_core.storage.addresses import is_s3
from effnet_core.storage.client import DEFAULT_ACCESS, S3Access
from effnet_core.text import is_unicode, os_reason

STAGE = "stage"
EVENT_EVERY = 200
WORK_NAME = ".source"
"""Folder inside the output for what is fetched and unpacked; gone once all of it is staged."""
CONVERTED_SUFFIX = ".converted.png"
"""Added to the names of images that are re-encoded; ``.png`` alone could be another file's name."""


def stage_dataset(
    source: str | Path,
    out: Path,
    *,
    val_share: float = 0.2,
    seed: int = 0,
    max_rejected_share: float = 0.1,
    max_pixels: int = MAX_PIXELS,
    background: Colour | None = WHITE,
    access: S3Access = DEFAULT_ACCESS,
    hard_links: bool = False,
) -> tuple[Dataset, bool]:
    """Stage a data set, wherever it lives; a call that was cut goes on, and one too many does nothing.

    Args:
        source: a folder of ``train/CLASS/*`` and ``val/CLASS/*`` or of ``CLASS/*``, Hugging Face's
            imagefolder, a ``.csv`` file of path and label, an archive, tar shards, the files of ILSVRC2012,
            or ``s3://bucket/prefix`` with any of these.
        out: folder of the staged data set; an earlier one of the same content is kept as it is.
        val_share: share of images that becomes the split ``val`` where the source has no splits. It is
            decided by each file's content, so adding images never moves one to the other side.
        seed: changes that decision.
        max_rejected_share: share of unusable files above which staging is refused.
        max_pixels: of an image; larger ones are set aside.
        background: colour that transparent images are laid on where the data card looks at them; the files
            keep their transparency.
        access: how to reach an object store.
        hard_links: make hard links instead of copies, for a source whose files nobody changes.

    Returns:
        The staged data set, and whether it had been there already.

    Raises:
        DataError: the source is missing or empty, an archive or key is refused, there is no room, a class
            has no usable image, a validation class is not among the training classes, or too many files are
            unusable.
        StoreError: the object store refuses.
        OutputExists: ``out`` holds something else, or is in use.
    """
    origin = open_source(source, access)
    if not is_s3(str(source)) and out.resolve().is_relative_to(Path(source).resolve()):
        raise DataError(f"output folder {out} lies inside the source {source}; choose another")
    with sole_user(out, what="output folder"):
        how = _How(val_share, seed, max_pixels, background, hard_links)
        return _stage(origin, out, how, max_rejected_share=max_rejected_share)


@dataclass(frozen=True)
class _How:
    """What ``stage_dataset`` was told about each image."""

    val_share: float
    seed: int
    max_pixels: int
    background: Colour | None
    hard_links: bool

    def __str__(self) -> str:
        """What decides about the result."""
        return f"{self.val_share}\t{self.seed}\t{self.max_pixels}\t{self.background}"


def _stage(
    origin: Source, out: Path, how: _How, *, max_rejected_share: float
) -> tuple[Dataset, bool]:
    """As ``stage_dataset``, into a folder that nobody else uses meanwhile."""
    listing = sha256_of_text(str(how), origin.listing())
    require_empty_or_own(out, DATASET_NAME, what="output folder")
    if (reused := _already_staged(out, listing)) is not None:
        count = sum(reused.counts.values()) + reused.rejected
        _refuse_if_too_many(read_jsonl(out / REJECTED_NAME), count, max_rejected_share)
        emit(Event(STAGE, f"staging: {out} is up to date, {_describe(reused)}", count, count))
        return reused, True
    write_json(out / DATASET_NAME, {"complete": False})
    work = out / WORK_NAME
    candidates = origin.candidates(work)
    try:
        if not how.hard_links:
            require_space(out, _bytes_to_copy(candidates, out), what=f"copying {origin.shown}")
        rows, rejected = _verify_all(candidates, out, how)
    except OSError as cause:
        raise refuse_os_errors(f"staging into {out}")(cause) from cause
    _refuse_if_too_many(rejected, len(candidates), max_rejected_share)
    class_names = _class_names(candidates, rows)
    verification = verify_rows(rows, rejected, class_names)
    labels = {name: label for label, name in enumerate(class_names)}
    for row in rows:
        row["label"] = labels[row["class_name"]]
    try:
        _remove_strays(out, rows)
        _write_all(out, rows, rejected, class_names, verification, how.background)
        write_json(
            out / DATASET_NAME,
            {
                "complete": True,
                "digest": rows_digest(rows, class_names),
                "listing": listing,
                "counts": dict(sorted(Counter(row["split"] for row in rows).items())),
                "rejected": len(rejected),
                "source": origin.shown,
            },
        )
    except OSError as cause:
        raise refuse_os_errors(f"staging into {out}")(cause) from cause
    shutil.rmtree(work, ignore_errors=True)
    dataset = open_dataset(out)
    for warning in verification.warnings():
        emit(Event(STAGE, f"look into this: {warning}"))
    emit(Event(STAGE, f"staging: {out}, {_describe(dataset)}", len(candidates), len(candidates)))
    return dataset, False


def _write_all(
    out: Path,
    rows: list[dict[str, Any]],
    rejected: list[dict[str, str]],
    class_names: list[str],
    verification: Verification,
    background: Colour | None,
) -> None:
    """Everything but ``dataset.json``, which makes the data set count."""
    _write_rejected(out / REJECTED_NAME, rejected)
    write_manifest(out / MANIFEST_NAME, rows)
    write_json(out / CLASSES_NAME, class_names)
    write_json(out / VERIFICATION_NAME, verification.to_dict())
    synsets = out / WORK_NAME / "imagenet2012" / SYNSETS_NAME
    if synsets.is_file():
        write_json(out / SYNSETS_NAME, read_json(synsets))
    write_card(out, rows, class_names, verification, background=background)


def _already_staged(out: Path, listing: str) -> Dataset | None:
    if not (out / DATASET_NAME).exists():
        return None
    facts = read_json(out / DATASET_NAME)
    if not facts.get("complete") or facts.get("listing") != listing:
        return None
    return open_dataset(out) if _is_whole(out) else None


def _is_whole(out: Path) -> bool:
    """Whether every staged file is there with its size.

    Images are not flushed one by one, which would take longer than all the rest; those that a power cut
    has emptied are found here.
    """
    table = pq.read_table(out / MANIFEST_NAME, columns=["path", "size_bytes"])
    try:
        return all(
            os.stat(out / path).st_size == size  # noqa: PTH116 - a million of them
            for path, size in zip(
                *(table[name].to_pylist() for name in table.column_names), strict=True
            )
        )
    except FileNotFoundError:
        return False


def _verify_all(
    candidates: list[Candidate], out: Path, how: _How
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Look into every file; give the rows of usable ones and the reasons of the others."""
    rows, rejected = [], []
    with warnings.catch_warnings(), ThreadPoolExecutor(len(available_cores())) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata
        results = pool.map(lambda item: _verify(item, out, how), candidates)
        for done, (item, result) in enumerate(zip(candidates, results, strict=True), start=1):
            if isinstance(result, str):
                rejected.append({"path": item.shown or str(item.path), "reason": result})
            else:
                rows.append(result)
            if done % EVENT_EVERY == 0 or done == len(candidates):
                emit(Event(STAGE, done=done, total=len(candidates)))
    return rows, rejected


def _is_trainable(content: bytes, image: Image.Image) -> bool:
    """Whether MindSpore reads a file too, and to the same pixels or through ``for_mindspore``."""
    if image.format == "PNG":
        return is_whole_png(content)
    return image.format in TRAINABLE_FORMATS


def _verify(item: Candidate, out: Path, how: _How) -> dict[str, Any] | str:
    """The manifest row of a usable image, which is then in place, or the reason against it."""
    if not is_unicode(f"{item.class_name}/{item.inner}"):
        return "file name is not valid UTF-8"
    try:
        content = item.path.read_bytes()
        image = decode_image(content, max_pixels=how.max_pixels)
        converted = None if _is_trainable(content, image) else to_rgba(image)
        one_colour = is_one_colour(image, how.background)
    except ImageProblem as problem:
        if item.path.suffix.lower() not in IMAGE_SUFFIXES and str(problem) == "not an image":
            return "not an image (by name and by content)"
        return str(problem)
    except OSError as cause:
        return os_reason(cause)
    digest = hashlib.sha256(content).hexdigest()
    split = item.split or split_of(digest, how.val_share, how.seed)
    relative = f"images/{split}/{item.class_name}/{item.inner}"
    target = out / relative
    if converted is None:
        _place(content, digest, item.path, target, hard_links=how.hard_links)
    else:
        target = target.with_name(target.name + CONVERTED_SUFFIX)
        relative += CONVERTED_SUFFIX
        with atomic_path(target) as temporary:
            converted.save(temporary, format="PNG")
        digest = sha256_of_file(target)
    return {
        "image_id": image_id(relative),
        "path": relative,
        "split": split,
        "class_name": item.class_name,
        "size_bytes": target.stat().st_size,
        "sha256": digest,
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "format": image.format or "turned by its EXIF orientation",
        "one_colour": one_colour,
    }


def _place(content: bytes, digest: str, source: Path, target: Path, *, hard_links: bool) -> None:
    """Put the bytes that were looked at in place; the source may be changing at this moment."""
    own = source.stat().st_nlink == 1 and WORK_NAME in source.parts  # fetched or unpacked by us
    if target.exists():
        is_source = target.samefile(source)
        if (hard_links or not is_source) and sha256_of_file(target) == digest:
            return
        target.unlink()
    if hard_links or own:
        link_or_copy(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        if not (clone(source, part) and sha256_of_file(part) == digest):
            part.write_bytes(content)
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _bytes_to_copy(candidates: list[Candidate], out: Path) -> int:
    """Size of the files that are copied, less what an earlier staging has left."""
    sizes = [item.path.stat().st_size for item in candidates if WORK_NAME not in item.path.parts]
    before = (path for path in (out / "images").rglob("*") if path.is_file())
    return sum(sizes) - sum(path.stat().st_size for path in before)


def _refuse_if_too_many(rejected: list[dict[str, str]], total: int, limit: float) -> None:
    share = len(rejected) / total
    if rejected and (share > limit or len(rejected) == total):
        first = rejected[0]
        raise DataError(
            f"{len(rejected)} of {total} files ({share:.1%}) cannot be used, more than the allowed "
            f"{limit:.1%} (--max-rejected-share); the first: {first['path']}: {first['reason']}"
        )


def _class_names(candidates: list[Candidate], rows: list[dict[str, Any]]) -> list[str]:
    """Class names of the training split, sorted; every class found must have images there."""
    names = sorted({row["class_name"] for row in rows if row["split"] == "train"})
    missing = sorted({item.class_name for item in candidates} - set(names))
    if missing:
        raise DataError(
            f"{len(missing)} class(es) have no usable training image: {', '.join(missing[:10])}; "
            "add images to the training split or remove the class"
        )
    if len(names) < 2:
        raise DataError(
            f"only one class, {names[0]!r}: a classifier needs at least two class folders"
        )
    return names


def _remove_strays(out: Path, rows: list[dict[str, Any]]) -> None:
    """Take away files of an earlier staging that are not in the new manifest."""
    wanted = {out / row["path"] for row in rows}
    for path in sorted((out / "images").rglob("*"), reverse=True):
        if path.is_file() and path not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            shutil.rmtree(path)


def _write_rejected(path: Path, rejected: list[dict[str, str]]) -> None:
    path.write_text("", encoding="utf-8")
    for row in rejected:
        append_jsonl(path, row)


def _describe(dataset: Dataset) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in dataset.counts.items())
    return f"{dataset.num_classes} classes, {counts}, {dataset.rejected} set aside"


def split_of(sha256: str, val_share: float, seed: int) -> str:
    """``val`` for about ``val_share`` of the images of each class, ``train`` for the others.

    The image's digest and the seed alone decide. Adding, removing, renaming or relabelling images moves no
    other to the other side, two copies of one image are on the same side, and every class gives the same
    share, up to chance: with 100 images and a share of 0.2, 12 to 28 in 95 % of the cases.
    """
    position = int(sha256_of_text(str(seed), sha256)[:12], 16) / 16**12
    return VAL if position < val_share else TRAIN
