"""The review queue: the pictures that are worth a person's minute, on a page that needs no server.

OUT/
  index.html   the page: keys decide, and a button saves labels.csv
  queue.csv    the same list for programs
  pictures/    the pictures themselves

``effnet stage --corrections labels.csv`` takes what the page saves.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from effnet_core.config.schema import RunConfig
from effnet_core.data.corrections import COLUMNS, NO_CORRECTIONS, Corrections
from effnet_core.data.imagenet import readable
from effnet_core.data.images import WHITE, Colour, decode_image, to_rgb
from effnet_core.data.manifest import open_dataset
from effnet_core.errors import DataError, EffnetError
from effnet_core.events import Event, emit
from effnet_core.infer.output import SUMMARY_NAME, background_of
from effnet_core.infer.places import BucketPlace, FolderPlace, OutputPlace
from effnet_core.infer.plan import PARTS_NAME, RUN_NAME, planned_reader
from effnet_core.infer.readers import ImageReader, open_reader
from effnet_core.jobs.job import JOB_NAME, PredictJob, TrainJob, read_job
from effnet_core.quality.features import label_splits
from effnet_core.quality.labels import confident_learning, out_of_fold
from effnet_core.quality.queue import REASONS, Candidate, of_labelling, without_copies
from effnet_core.render.pages import write_page
from effnet_core.storage.addresses import is_s3
from effnet_core.system.files import atomic_path, make_folder, read_json, require_empty_or_own
from effnet_core.system.locks import scratch_folder
from effnet_core.weights.checkpoint import MODEL_NAME, open_checkpoint

PAGE_NAME = "index.html"
QUEUE_NAME = "queue.csv"
PICTURES_NAME = "pictures"
WORK_NAME = "work"
JOBS_NAME = "jobs"
TEMPLATE_NAME = "review.html.j2"
TOPIC = "review"
SPARE = 4
"""Times as many pictures are looked at as are wanted, since near copies are left out."""
PAGE_PX = 320
"""Side of a picture on the page."""


@dataclass(frozen=True)
class Queue:
    """A queue that was written."""

    path: Path
    """The page."""
    pictures: int
    by_reason: dict[str, int]


@dataclass(frozen=True)
class Source:
    """Where a queue's pictures come from."""

    candidates: Iterable[Candidate]
    """Most worth a look first."""
    reader: ImageReader
    root: str
    class_names: tuple[str, ...]
    background: Colour | None


def write_queue(
    run: str | Path,
    out: Path,
    *,
    count: int,
    config: RunConfig,
    decided: Corrections = NO_CORRECTIONS,
) -> Queue:
    """Choose pictures of a run and write their queue.

    Args:
        run: the output of a labelling, here or at an ``s3://`` address: its least certain pictures and
            those that are unlike what the model learned from; or a training run: the labels of its data
            set that the model contradicts most.
        out: a new folder, or the queue of an earlier call, which is replaced.
        count: pictures at most.
        config: engine and storage.
        decided: of earlier reviews: these pictures are left out.

    Raises:
        DataError: the folder is neither, or its pictures are not there any more.
        OutputExists: ``out`` holds something else.
    """
    require_empty_or_own(out, QUEUE_NAME, what="folder of the queue")
    make_folder(out, what="folder of the queue")
    most = SPARE * count + len(decided)
    if is_s3(str(run)):
        with scratch_folder("review") as folder:
            place = BucketPlace(str(run), folder, config.storage, config.infer.lease_s)
            source = _of_bucket(place, most, config)
            return _write(source, out, count=count, title=str(run), decided=decided)
    run = Path(run)
    if (run / PARTS_NAME).is_dir():
        source = _of_labelling(FolderPlace(run), _names_of_model(run), most, config)
    elif (run / JOB_NAME).is_file() and (run / MODEL_NAME).is_file():
        source = _of_training(run, out / WORK_NAME, config)
    else:
        raise DataError(
            f"{run} is neither the output of a labelling (effnet predict) nor the folder of a finished "
            "training run"
        )
    return _write(source, out, count=count, title=str(run), decided=decided)


def _of_bucket(place: BucketPlace, count: int, config: RunConfig) -> Source:
    """The same of an output in a bucket, whose records are copied to the place's folder first."""
    planned = place.read_plan()
    place.fetch_shards(observed=True)
    place.fetch_summary()
    sha256 = planned.shards[0].model_sha256 if planned.shards else ""
    names: tuple[str, ...] = ()
    with suppress(EffnetError):  # what it is called by its answers is enough
        names = readable(place.find_model(place.folder / MODEL_NAME, sha256).sidecar.class_names)
    return _of_labelling(place, names, count, config)


def _of_labelling(
    place: OutputPlace, model_names: tuple[str, ...], count: int, config: RunConfig
) -> Source:
    """The pictures of a labelling that are least certain, and those that are farthest out."""
    run = place.folder
    root = str(read_json(run / RUN_NAME)["input"])
    summary = read_json(run / SUMMARY_NAME) if (run / SUMMARY_NAME).is_file() else {}
    names = {*map(str, summary.get("classes", {})), *model_names}
    chosen = of_labelling(place.rows(("path", "class_names", "probs")), run, count)
    known = sorted({*names, *(name for one in chosen for name, _ in one.suggestions)})
    reader = planned_reader(run, config.storage)
    return Source(chosen, reader, root, tuple(known), background_of(summary))


def _of_training(run: Path, work: Path, config: RunConfig) -> Source:
    """The labels of a run's data set that its model contradicts most."""
    job = read_job(run)
    if not isinstance(job, TrainJob):
        raise DataError(f"{run} holds no training run")
    dataset = open_dataset(job.data_dir)
    splits = [dataset.split(name) for name, images in dataset.counts.items() if images]
    checkpoint = open_checkpoint(run / MODEL_NAME)
    emit(Event(TOPIC, f"features of {sum(map(len, splits)):,} images of {dataset.root}"))
    rows = label_splits(checkpoint, splits, work, config=config)
    labels = np.concatenate([split.labels for split in splits]).astype(np.int64)
    found = suspicious(rows, labels, readable(dataset.class_names))
    text = f"{found.suspected:,} of {len(labels):,} labels are contradicted by confident learning"
    emit(Event(TOPIC, text))
    background = checkpoint.sidecar.preprocess.background
    reader = open_reader(str(dataset.root), config.storage)
    root, names = str(dataset.root.resolve()), dataset.class_names
    return Source(found.candidates, reader, root, names, background)


def _names_of_model(run: Path) -> tuple[str, ...]:
    """All classes that the model of a labelling knows, while it is still where it was."""
    for job_dir in sorted((run / JOBS_NAME).glob("*")):
        try:
            job = read_job(job_dir)
            if isinstance(job, PredictJob):
                return readable(open_checkpoint(job.checkpoint).sidecar.class_names)
        except EffnetError:
            continue
    return ()


@dataclass(frozen=True)
class Suspects:
    """Images whose labels are doubted, and how many are probably wrong."""

    candidates: list[Candidate]
    suspected: int


def suspicious(
    rows: Sequence[dict[str, Any]], labels: np.ndarray[Any, Any], names: Sequence[str]
) -> Suspects:
    """All images, the most doubtful labels first.

    Args:
        rows: predictions with features, in the order of ``labels``.
        labels: (N,).
        names: of the classes.
    """
    features = np.array([row["features"] for row in rows], np.float32)
    probs = out_of_fold(features, labels, classes=len(names))
    found = confident_learning(probs, labels)
    candidates = []
    for i in found.order:
        best = np.argsort(-probs[i], kind="stable")[:5]
        suggestion = int(found.suggestion[i])
        order = [suggestion, *(int(k) for k in best if k != suggestion)][:5]
        shown = tuple((names[k], float(probs[i, k])) for k in order)
        path, own = str(rows[i]["path"]), names[int(labels[i])]
        candidates.append(Candidate(path, own, shown, "label", is_labelled=True))
    return Suspects(candidates, found.suspected)


def _write(source: Source, out: Path, *, count: int, title: str, decided: Corrections) -> Queue:
    pictures = out / PICTURES_NAME
    make_folder(pictures, what="folder of pictures")
    for old in pictures.iterdir():
        old.unlink()
    items: list[dict[str, Any]] = []
    for number, (one, content) in enumerate(without_copies(_read(source, decided), count), start=1):
        suffix = PurePosixPath(one.path).suffix[:8]
        name = f"{number:04d}{suffix}"
        with atomic_path(pictures / name) as temporary:
            temporary.write_bytes(content)
        items.append(
            {
                "sha256": hashlib.sha256(content).hexdigest(),
                "file": f"{PICTURES_NAME}/{name}",
                "path": one.path,
                "given": one.given,
                "labelled": one.is_labelled,
                "suggestions": [[name, round(share, 4)] for name, share in one.suggestions],
                "reason": one.reason,
                "picture": _address(content, source.background),
            }
        )
    if not items:
        raise DataError(
            f"none of the pictures of {title} can be read; is {source.root} still there?"
            if not decided
            else f"no picture of {title} is left that nobody has decided on"
        )
    _write_csv(out / QUEUE_NAME, items)
    names = sorted({*source.class_names, *(str(item["given"]) for item in items)})
    page = {
        "title": title,
        "items": items,
        "class_names": names,
        "columns": list(COLUMNS),
        "reasons": REASONS,
        "key": hashlib.sha256("".join(str(i["sha256"]) for i in items).encode()).hexdigest()[:16],
    }
    path = write_page(out / PAGE_NAME, TEMPLATE_NAME, page)
    kinds = [str(item["reason"]) for item in items]
    return Queue(path, len(items), {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)})


def _read(source: Source, decided: Corrections) -> Iterator[tuple[Candidate, bytes]]:
    """Candidates with their files; those that cannot be read or are decided are left out."""
    for one in source.candidates:
        try:
            content = source.reader.read(one.path)
            if not decided or hashlib.sha256(content).hexdigest() not in decided:
                yield one, content
        except (OSError, ValueError):  # an image problem is a ValueError
            if not is_s3(source.root) and not Path(source.root).is_dir():
                return


def _address(content: bytes, background: Colour | None = WHITE) -> str:
    """A picture as the page shows it; small ones are enlarged pixel by pixel there."""
    image = to_rgb(decode_image(content, at_least_px=PAGE_PX, max_pixels=sys.maxsize), background)
    image.thumbnail((PAGE_PX, PAGE_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _write_csv(path: Path, items: Sequence[dict[str, Any]]) -> None:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow((*COLUMNS, "path", "suggestion", "probability"))
        for item in items:
            (name, share), *_ = item["suggestions"]
            row = (item["sha256"], item["file"], "", item["given"], "label", item["reason"])
            writer.writerow((*row, item["path"], name, share))
