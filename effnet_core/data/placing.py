"""One file of a source: looked into, and put into the staged data set or refused with a reason."""

from __future__ import annotations

import errno
import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from effnet_core.data.corrections import NO_CORRECTIONS, Corrections
from effnet_core.data.encoded import is_whole_png
from effnet_core.data.images import (
    TRAINABLE_FORMATS,
    Colour,
    ImageProblem,
    decode_image,
    is_one_colour,
    probe,
    read_bytes,
    to_rgba,
)
from effnet_core.data.manifest import image_id
from effnet_core.data.near_copies import PROBE_SIZE, fingerprint
from effnet_core.data.sources.candidates import Candidate, class_folder
from effnet_core.data.splits import Sides
from effnet_core.files import (
    atomic_path,
    clone,
    link_or_copy,
    part_name,
    sha256_of_file,
    sha256_of_text,
    short_name,
)
from effnet_core.text import is_unicode, os_reason

WORK_NAME = ".source"
"""Folder inside the output for what is fetched and unpacked; gone once all of it is staged."""
LEFT_OUT = "left out by a person"
NAME_BYTES = 255
CONVERTED_SUFFIX = ".converted.png"
"""Added to the names of images that are re-encoded; ``.png`` alone could be another file's name."""


@dataclass(frozen=True)
class Place:
    """Where images go, and what decides about them."""

    out: Path
    sides: Sides
    max_pixels: int
    background: Colour | None
    hard_links: bool
    corrections: Corrections = NO_CORRECTIONS
    """What a person decided about pictures."""


def _is_trainable(content: bytes, image: Image.Image) -> bool:
    """Whether MindSpore reads a file too, and to the same pixels or through ``for_mindspore``."""
    if image.format == "PNG":
        return is_whole_png(content)
    return image.format in TRAINABLE_FORMATS


def look_into(item: Candidate, place: Place) -> dict[str, Any] | str:
    """The manifest row of a usable image, which is then in place, or the reason against it."""
    if item.problem:
        return item.problem
    if not is_unicode(f"{item.class_name}/{item.inner}"):
        return "file name is not valid UTF-8"
    try:
        content = read_bytes(item.path)
        image = decode_image(content, max_pixels=place.max_pixels)
        converted = None if _is_trainable(content, image) else to_rgba(image)
        few = probe(image, PROBE_SIZE, place.background)
        one_colour = is_one_colour(image, few, place.background)
    except ImageProblem as problem:
        return str(problem)
    digest = own = hashlib.sha256(content).hexdigest()
    if converted is not None:
        stream = io.BytesIO()
        converted.save(stream, "PNG")
        digest = hashlib.sha256(stream.getbuffer()).hexdigest()
    decision = place.corrections.decision(item.class_name, own, digest)
    if decision.leave_out:
        return LEFT_OUT
    item = replace(item, class_name=decision.label)
    split = item.split or place.sides.of(digest)
    relative = _relative(item, split, CONVERTED_SUFFIX if converted else "")
    target = place.out / relative
    try:
        if converted is None:
            _place(content, digest, item.path, target, hard_links=place.hard_links)
        else:
            with atomic_path(target) as temporary:
                temporary.write_bytes(stream.getbuffer())
        size_bytes = target.stat().st_size
    except OSError as cause:
        if cause.errno != errno.ENAMETOOLONG:
            raise
        return os_reason(cause)
    return {
        "image_id": image_id(relative),
        "path": relative,
        "split": split,
        "class_name": item.class_name,
        "size_bytes": size_bytes,
        "sha256": digest,
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "format": image.format or "turned by its EXIF orientation",
        "one_colour": one_colour,
        "fingerprint": fingerprint(few),
        "free": not item.split,
        "corrected": decision.digest,
        "was": decision.was,
    }


def _relative(item: Candidate, split: str, added: str) -> str:
    """Where an image goes, below the data set's folder."""
    folder, slash, name = item.inner.rpartition("/")
    if len(f"{name}{added}".encode()) > NAME_BYTES:
        stem, dot, suffix = name.rpartition(".")
        suffix = f"{dot}{suffix}" if stem and len(suffix) < 8 else ""
        name = f"{short_name(name)}~{sha256_of_text(item.inner)[:16]}{suffix}"
        name = name.encode().decode(errors="ignore")
    return f"images/{split}/{class_folder(item.class_name)}/{folder}{slash}{name}{added}"


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
    part = target.with_name(part_name(target.name))
    try:
        if not (clone(source, part) and sha256_of_file(part) == digest):
            part.write_bytes(content)
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
