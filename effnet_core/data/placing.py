"""One file of a source: looked into, and put into the staged data set or refused with a reason."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from effnet_core.data.corrections import NO_CORRECTIONS, Corrections
from effnet_core.data.encoded import is_whole_png
from effnet_core.data.images import (
    TRAINABLE_FORMATS,
    Colour,
    ImageProblem,
    check_image,
    decode_image,
    is_one_colour,
    probe,
    read_bytes,
    to_rgb,
    to_rgba,
)
from effnet_core.data.manifest import image_id
from effnet_core.data.near_copies import PROBE_PX, PROBE_SIZE, grey_of
from effnet_core.data.sources.candidates import Candidate, class_folder
from effnet_core.data.splits import Sides
from effnet_core.system.files import (
    clone,
    link_or_copy,
    sha256_of_file,
    sha256_of_text,
    short_name,
)
from effnet_core.text import is_unicode, os_reason

WORK_NAME = ".source"
"""Folder inside the output for what is fetched and unpacked; gone once all of it is staged."""
LEFT_OUT = "left out by a person"
NAME_BYTES = 255
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
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

    @cached_property
    def writer(self) -> Writer:
        """What puts them there."""
        return Writer(self.out, hard_links=self.hard_links)


class Writer:
    """Puts files into a folder, and asks its file system each thing only once.

    With a million small files, the calls to the system cost more than writing.
    """

    def __init__(self, root: Path, *, hard_links: bool) -> None:
        self.root, self.hard_links = str(root), hard_links
        self.work = os.path.join(root, WORK_NAME, "")
        self.made: set[str] = set()
        """Folders that are there."""
        self.clones = True
        """Whether the file system lets files share blocks, as far as is known."""

    def put(self, content: bytes | memoryview, digest: str, source: Path | None, path: str) -> None:
        """Put bytes that were looked at in place; their source may be changing at this moment.

        A kill may leave a part of them under the name, in a data set that does not count yet: staging
        again finds other bytes there, and replaces them.

        Args:
            content: the bytes.
            digest: their SHA-256.
            source: the file that they were read from; None where they were made here.
            path: where they go, below the folder.
        """
        target = f"{self.root}/{path}"
        folder = target[: target.rindex("/")]
        if folder not in self.made:
            os.makedirs(folder, exist_ok=True)
            self.made.add(folder)
        if source is not None and (self.hard_links or self._is_own(source)):
            if not self._is_there(source, target, digest):
                link_or_copy(source, Path(target))
            return
        try:
            handle = os.open(target, NEW_FILE, 0o666)
        except FileExistsError:
            if self._is_there(source, target, digest):
                return
            handle = os.open(target, NEW_FILE, 0o666)
        try:
            if not (source is not None and self._clone(source, target, digest, handle)):
                while content := content[os.write(handle, content) :]:
                    pass
        except OSError:
            with suppress(OSError):
                os.unlink(target)
            raise
        finally:
            os.close(handle)

    def _is_there(self, source: Path | None, target: str, digest: str) -> bool:
        """Whether an earlier staging has put these bytes there; others are removed."""
        try:
            facts = os.stat(target, follow_symlinks=False)
        except FileNotFoundError:
            return False
        is_source = source is not None and os.path.samestat(facts, source.stat())
        is_file = stat.S_ISREG(facts.st_mode)
        if (
            is_file
            and (self.hard_links or not is_source)
            and sha256_of_file(Path(target)) == digest
        ):
            return True
        os.unlink(target)
        return False

    def _is_own(self, source: Path) -> bool:
        """Whether a file was fetched or unpacked by this staging, and nobody else has it."""
        return str(source).startswith(self.work) and source.stat().st_nlink == 1

    def _clone(self, source: Path, target: str, digest: str, handle: int) -> bool:
        """Let the target share the source's blocks, where that can be and they hold these bytes."""
        if self.clones:
            self.clones = clone(source, Path(target))
        if not self.clones:
            return False
        if sha256_of_file(Path(target)) == digest:
            return True
        os.ftruncate(handle, 0)
        return False


def _is_trainable(content: bytes, image: Image.Image) -> bool:
    """Whether MindSpore reads a file too, and to the same pixels or through ``for_mindspore``."""
    if image.format == "PNG":
        return is_whole_png(content)
    return image.format in TRAINABLE_FORMATS


def _is_one_colour(content: bytes, place: Place) -> bool:
    """Whether all pixels of an image are of one colour, of which a few are."""
    image = decode_image(content, max_pixels=place.max_pixels)
    return is_one_colour(to_rgb(image, place.background))


def look_into(item: Candidate, place: Place) -> dict[str, Any] | str:
    """The manifest row of a usable image, which is then in place, or the reason against it."""
    if item.problem:
        return item.problem
    if not is_unicode(f"{item.class_name}/{item.inner}"):
        return "file name is not valid UTF-8"
    try:
        content = read_bytes(item.path)
        image, (width, height), mode = check_image(
            content, at_least_px=PROBE_PX, max_pixels=place.max_pixels
        )
        converted = None if _is_trainable(content, image) else to_rgba(image)
        few = probe(image, PROBE_SIZE, place.background)
        one_colour = is_one_colour(few) and _is_one_colour(content, place)
    except ImageProblem as problem:
        return str(problem)
    written: bytes | memoryview = content
    if converted is not None:
        stream = io.BytesIO()
        converted.save(stream, "PNG")
        written = stream.getbuffer()
    digest = own = hashlib.sha256(written).hexdigest()
    if place.corrections and converted is not None:
        own = hashlib.sha256(content).hexdigest()
    decision = place.corrections.decision(item.class_name, own, digest)
    if decision.leave_out:
        return LEFT_OUT
    if decision.label != item.class_name:
        item = replace(item, class_name=decision.label)
    split = item.split or place.sides.of(digest)
    relative = _relative(item, split, CONVERTED_SUFFIX if converted else "")
    try:
        place.writer.put(written, digest, item.path if converted is None else None, relative)
    except OSError as cause:
        if cause.errno != errno.ENAMETOOLONG:
            raise
        return os_reason(cause)
    return {
        "image_id": image_id(relative),
        "path": relative,
        "split": split,
        "class_name": item.class_name,
        "size_bytes": len(written),
        "sha256": digest,
        "width": width,
        "height": height,
        "mode": mode,
        "format": image.format or "turned by its EXIF orientation",
        "one_colour": one_colour,
        "grey": grey_of(few),
        "free": not item.split,
        "corrected": decision.digest,
        "was": decision.was,
    }


def with_own_places(candidates: list[Candidate]) -> list[Candidate]:
    """The same, but for files that are called as another one would be after it was re-encoded."""
    names = {(item.class_name, item.inner) for item in candidates}
    return [
        replace(item, inner=f"{item.inner.removesuffix(CONVERTED_SUFFIX)}~{CONVERTED_SUFFIX}")
        if item.inner.endswith(CONVERTED_SUFFIX)
        and (item.class_name, item.inner.removesuffix(CONVERTED_SUFFIX)) in names
        else item
        for item in candidates
    ]


def _relative(item: Candidate, split: str, added: str) -> str:
    """Where an image goes, below the data set's folder."""
    folder, slash, name = item.inner.rpartition("/")
    if len(f"{name}{added}".encode()) > NAME_BYTES:
        stem, dot, suffix = name.rpartition(".")
        suffix = f"{dot}{suffix}" if stem and len(suffix) < 8 else ""
        name = f"{short_name(name)}~{sha256_of_text(item.inner)[:16]}{suffix}"
        name = name.encode().decode(errors="ignore")
    return f"images/{split}/{class_folder(item.class_name)}/{folder}{slash}{name}{added}"
