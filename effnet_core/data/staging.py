"""Bring labelled images from wherever they live into a staged data set, once, each of them verified.

A staged data set holds nothing that training could stumble over: each file was decoded in full, and
what could not be is set aside in ``rejected.jsonl`` with its reason.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from effnet_core.data.card import write_card
from effnet_core.data.corrections import NO_CORRECTIONS, Corrections, sentence
from effnet_core.data.images import MAX_PIXELS, WHITE, Colour
from effnet_core.data.manifest import (
    CLASSES_NAME,
    DATASET_NAME,
    MANIFEST_NAME,
    REJECTED_NAME,
    Dataset,
    image_id,
    open_dataset,
    read_facts,
    read_manifest,
    rows_digest,
    write_manifest,
)
from effnet_core.data.near_copies import confirmed, fingerprints, near_pairs
from effnet_core.data.placing import (
    LEFT_OUT,
    WORK_NAME,
    Place,
    look_into,
    with_own_places,
)
from effnet_core.data.sources.candidates import Candidate
from effnet_core.data.sources.finding import in_a_line
from effnet_core.data.sources.imagenet2012 import SYNSETS_NAME
from effnet_core.data.sources.opening import DatasetSource, open_source
from effnet_core.data.sources.tree import DEFAULT_RULES, Labelled, Rules
from effnet_core.data.splits import TRAIN, Sides
from effnet_core.data.verification import VERIFICATION_NAME, Verification, verify_rows
from effnet_core.errors import DataError
from effnet_core.events import Event, Threads, emit
from effnet_core.storage.addresses import is_s3
from effnet_core.storage.client import DEFAULT_ACCESS, S3Access
from effnet_core.system.files import (
    append_jsonl,
    read_json,
    read_jsonl,
    refuse_os_errors,
    require_empty_or_own,
    require_space,
    sha256_of_text,
    write_json,
    write_text,
)
from effnet_core.system.locks import sole_user
from effnet_core.system.machine import available_cores
from effnet_core.text import is_unicode

TOPIC = "stage"
EVENT_EVERY = 200
GROUP = 20
"""Files that a thread looks into before it asks for more."""
OTHER_NAME = "other_files.jsonl"
"""Files that are not pictures of a class, and what was left out, with the reason."""


def stage_dataset(
    source: str | Path,
    out: Path,
    *,
    val_share: float = 0.2,
    seed: int = 0,
    max_rejected_share: float = 0.1,
    max_pixels: int = MAX_PIXELS,
    background: Colour | None = WHITE,
    rules: Rules = DEFAULT_RULES,
    access: S3Access = DEFAULT_ACCESS,
    hard_links: bool = False,
    corrections: Corrections = NO_CORRECTIONS,
) -> tuple[Dataset, bool]:
    """Stage a data set, wherever it lives; a call that was cut continues, and one too many does nothing.

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
        rules: what people say about a source that does not tell by itself what is what.
        access: how to reach an object store.
        hard_links: make hard links instead of copies, for a source whose files nobody changes.
        corrections: right labels, pictures to leave out and pictures to add, as people found them.

    Returns:
        The staged data set, and whether it had been there already.

    Raises:
        DataError: the source is missing or empty, an archive or key is refused, there is no room, a class
            has no usable image, a validation class is not among the training classes, or too many files are
            unusable.
        StoreError: the object store refuses.
        OutputExists: ``out`` holds something else, or is in use.
    """
    with sole_user(out, what="output folder"):
        return stage_into(
            out,
            source,
            val_share=val_share,
            seed=seed,
            max_rejected_share=max_rejected_share,
            max_pixels=max_pixels,
            background=background,
            rules=rules,
            access=access,
            hard_links=hard_links,
            corrections=corrections,
        )


def stage_into(
    out: Path,
    source: str | Path,
    *,
    val_share: float,
    seed: int,
    max_rejected_share: float,
    max_pixels: int,
    background: Colour | None,
    rules: Rules,
    access: S3Access,
    hard_links: bool,
    corrections: Corrections = NO_CORRECTIONS,
) -> tuple[Dataset, bool]:
    """As ``stage_dataset``, into a folder that nobody else uses meanwhile."""
    origin = open_source(source, access, rules)
    if not is_s3(str(source)) and out.resolve().is_relative_to(Path(source).resolve()):
        raise DataError(f"output folder {out} lies inside the source {source}; choose another")
    rule = {"val_share": val_share, "seed": seed}
    sides = Sides(val_share, seed, _sides_before(out, rule))
    place = Place(out, sides, max_pixels, background, hard_links, corrections)
    settings = map(str, (rule, max_pixels, background, rules))
    decided = [key] if (key := corrections.key()) else []
    listing = sha256_of_text(*settings, origin.listing(), *decided)
    return _stage(origin, place, listing, max_rejected_share=max_rejected_share)


def _stage(
    origin: DatasetSource, place: Place, listing: str, *, max_rejected_share: float
) -> tuple[Dataset, bool]:
    """As ``stage_dataset``, once it is known what is staged where."""
    out, sides = place.out, place.sides
    require_empty_or_own(out, DATASET_NAME, what="output folder")
    if (reused := _already_staged(out, listing)) is not None:
        count = sum(reused.counts.values()) + reused.rejected
        _refuse_if_too_many(read_jsonl(out / REJECTED_NAME), count, max_rejected_share)
        emit(Event(TOPIC, f"staging: {out} is up to date, {_describe(reused)}", count, count))
        return reused, True
    rule = {"val_share": sides.val_share, "seed": sides.seed}
    kept = {"rule": rule} if sides.before else {}
    write_json(out / DATASET_NAME, {"complete": False, **kept})
    found = origin.labelled(out / WORK_NAME)
    if found.left_out:
        emit(Event(TOPIC, f"left out: {in_a_line(found.left_out)}"))
    try:
        if not place.hard_links:
            size = _bytes_to_copy(found.candidates, out)
            require_space(out, size, what=f"copying {origin.shown}")
        rows, rejected, aside = _verify_all(found.candidates, place)
        _refuse_if_too_many(rejected, len(found.candidates), max_rejected_share)
        added = _added(found.candidates, rows, place)
        rows += added
        _stratify(rows, out, sides)
        class_names = _class_names(found.candidates, rows)
        labels = {name: label for label, name in enumerate(class_names)}
        for row in rows:
            row["label"] = labels[row["class_name"]]
        notes = [*found.notes, *_notes_on(found, rows, class_names, sides)]
        if place.corrections:
            notes.append(_on_corrections(place.corrections, rows, added=len(added), aside=aside))
        near = _near_copies(rows)
        verification = verify_rows(rows, rejected, class_names, near=near, notes=notes)
        _remove_strays(out, rows)
        _write_all(out, rows, rejected, class_names, verification, place.background)
        _write_other(out / OTHER_NAME, found)
        write_json(
            out / DATASET_NAME,
            {
                "complete": True,
                "digest": rows_digest(rows, class_names),
                "listing": listing,
                "counts": dict(sorted(Counter(row["split"] for row in rows).items())),
                "rejected": len(rejected),
                "other_files": len(found.other),
                "source": origin.shown,
                "rule": rule,
            },
        )
    except OSError as cause:
        raise refuse_os_errors(f"staging into {out}")(cause) from cause
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)
    dataset = open_dataset(out)
    for note in notes:
        emit(Event(TOPIC, note))
    for warning in verification.warnings():
        emit(Event(TOPIC, f"warning: {warning}"))
    total = len(found.candidates)
    emit(Event(TOPIC, f"staging: {out}, {_describe(dataset)}", total, total))
    return dataset, False


def _sides_before(out: Path, rule: dict[str, Any]) -> dict[str, str]:
    """What an earlier staging by the same rule decided, by digest."""
    try:
        if read_facts(out).get("rule") != rule:
            return {}
        table = read_manifest(out, ["sha256", "split"])
    except DataError:
        return {}
    return dict(zip(table["sha256"].to_pylist(), table["split"].to_pylist(), strict=True))


def _stratify(rows: list[dict[str, Any]], out: Path, sides: Sides) -> None:
    """Move images so that every class with two or more is in both splits."""
    free = [row for row in rows if row["free"]]
    moved = sides.stratified((row["class_name"], row["sha256"], row["split"]) for row in free)
    for row in free:
        if (side := moved.get(row["sha256"])) is None or side == row["split"]:
            continue
        path = f"images/{side}/{row['path'].split('/', 2)[2]}"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / row["path"]).replace(out / path)
        row.update(split=side, path=path, image_id=image_id(path))


def _near_copies(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Paths of training pictures and of those of other splits that look like them."""
    is_train = np.array([row["split"] == TRAIN for row in rows], np.bool_)
    greys = np.frombuffer(b"".join(row["grey"] for row in rows), np.uint8).reshape(len(rows), -1)
    pairs = near_pairs(fingerprints(greys), is_train, [row["sha256"] for row in rows])
    return [[rows[one]["path"], rows[other]["path"]] for one, other in confirmed(greys, pairs)]


def _notes_on(
    found: Labelled, rows: list[dict[str, Any]], class_names: list[str], sides: Sides
) -> list[str]:
    """What a person should know of a staging."""
    notes = []
    if any(row["free"] for row in rows) and sides.val_share:
        notes.append(
            f"validation is {sides.val_share:.0%} of the pictures, chosen by their content, and at least one "
            "of every class that has two or more; a picture never changes sides when others are added"
        )
    if found.other:
        path, reason = found.other[0]
        notes.append(
            f"{len(found.other):,} other file(s), see {OTHER_NAME}; the first: {path} ({reason})"
        )
    alike = defaultdict(list)
    for name in class_names:
        alike[name.casefold()].append(name)
    if same := [names for names in alike.values() if len(names) > 1]:
        notes.append(
            f"warning: classes differ only in the case of their letters: {', '.join(same[0])}; if they are "
            "one, rename their folders"
        )
    numbers = [name for name in class_names if name.isdigit()]
    if len(numbers) == len(class_names) and numbers != sorted(numbers, key=int):
        notes.append(
            "all class names are numbers, and their order is that of text as everywhere: "
            f"{', '.join(class_names[:4])}, ...; label and number are not the same"
        )
    return notes


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
    try:
        facts = read_facts(out)
        if not facts.get("complete") or facts.get("listing") != listing:
            return None
        return open_dataset(out) if _is_whole(out) else None
    except DataError:
        return None  # damaged: staged again


def _is_whole(out: Path) -> bool:
    """Whether every staged file is there with its size.

    Images are not flushed one by one, which would take longer than all the rest; those that a power cut
    has emptied are found here.
    """
    table = read_manifest(out, ["path", "size_bytes"])
    try:
        return all(
            os.stat(out / path).st_size == size  # noqa: PTH116 - a million of them
            for path, size in zip(
                *(table[name].to_pylist() for name in table.column_names), strict=True
            )
        )
    except FileNotFoundError:
        return False


def _added(
    candidates: list[Candidate], rows: list[dict[str, Any]], place: Place
) -> list[dict[str, Any]]:
    """Rows of pictures that the source does not have and people have labelled."""
    known = {row["corrected"] for row in rows}
    split = TRAIN if any(item.split for item in candidates) else ""
    further = [
        Candidate(path, split, place.corrections.labels[digest], f"{digest[:16]}{path.suffix}")
        for digest, path in sorted(place.corrections.files.items())
        if digest not in known and path.is_file()
    ]
    return _verify_all(further, place)[0] if further else []


def _on_corrections(
    given: Corrections, rows: list[dict[str, Any]], *, added: int, aside: int
) -> str:
    """What became of the corrections of people, in a sentence."""
    corrected = [row for row in rows if row["corrected"]]
    changed = sum(row["was"] != row["class_name"] for row in corrected)
    counts = Counter(
        {
            "changed": changed,
            "confirmed": len(corrected) - changed - added,
            "left out": aside,
            "added": added,
        }
    )
    used = len({row["corrected"] for row in corrected}) + min(aside, len(given.left_out))
    return sentence(given, counts, used=used)


def _verify_all(
    candidates: list[Candidate], place: Place
) -> tuple[list[dict[str, Any]], list[dict[str, str]], int]:
    """Look into every file.

    Returns:
        The rows of usable ones, the reasons of the others, and how many people have left out.
    """
    rows, rejected, aside = [], [], 0
    candidates = with_own_places(candidates)
    groups = [candidates[k : k + GROUP] for k in range(0, len(candidates), GROUP)]
    with warnings.catch_warnings(), Threads(len(available_cores())) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata
        answers = pool.map(lambda group: [look_into(item, place) for item in group], groups)
        results = chain.from_iterable(answers)
        for done, (item, result) in enumerate(zip(candidates, results, strict=True), start=1):
            if result == LEFT_OUT:
                aside += 1
            elif isinstance(result, str):
                rejected.append({"path": item.shown or str(item.path), "reason": result})
            else:
                rows.append(result)
            if done % EVENT_EVERY == 0 or done == len(candidates):
                emit(Event(TOPIC, done=done, total=len(candidates)))
    return rows, rejected, aside


def _bytes_to_copy(candidates: list[Candidate], out: Path) -> int:
    """Size of the files that are copied, less what an earlier staging has left."""
    total = 0
    for item in candidates:
        if f"/{WORK_NAME}/" not in (path := str(item.path)):
            with suppress(OSError):  # looking into it will tell the reason
                total += os.stat(path).st_size  # noqa: PTH116 - a million of them
    before = (path for path in (out / "images").rglob("*") if path.is_file())
    return total - sum(path.stat().st_size for path in before)


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
    asked = {item.class_name for item in candidates if item.class_name}
    asked -= {row["was"] for row in rows}  # people may have given all its pictures to other classes
    if not names:
        there = ", ".join(sorted({row["split"] for row in rows}))
        raise DataError(
            f"no picture is of the training split, all are of {there}; add the training pictures, or give "
            "the folder of one split by itself"
        )
    missing = sorted(name for name in asked - set(names) if is_unicode(name))
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
    wanted = {f"{out}/{row['path']}" for row in rows}
    for folder, _, names in os.walk(out / "images", topdown=False):
        for name in names:
            if f"{folder}/{name}" not in wanted:
                os.unlink(f"{folder}/{name}")  # noqa: PTH108 - a million of them
        with suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106 - if it is empty


def _write_rejected(path: Path, rejected: list[dict[str, str]]) -> None:
    path.write_text("", encoding="utf-8")
    for row in rejected:
        append_jsonl(path, row)


def _write_other(path: Path, found: Labelled) -> None:
    rows = [*found.other, *((name, f"left out: {reason}") for name, reason in found.left_out)]
    lines = [json.dumps({"path": name, "reason": why}, ensure_ascii=False) for name, why in rows]
    write_text(path, "".join(f"{line}\n" for line in lines))


def _describe(dataset: Dataset) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in dataset.counts.items())
    return f"{dataset.num_classes} classes, {counts}, {dataset.rejected} set aside"
