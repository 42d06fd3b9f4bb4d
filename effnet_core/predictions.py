"""The output folder of a batch inference: part files that are whole, each image exactly once.

OUTPUT/
  run.json              digests of model and input list, settings; refuses another run's parts
  inputs.jsonl          the files, relative to the input's root, and their stamps
  predictions/part-*    one file a shard, named by its position and by digests
  shards/*.json         what each finished shard counted
  errors.jsonl          path and reason of files without an answer
  summary.json          totals
  report.html           the same to look at, with pictures (predictions_report.py)
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from effnet_core.config import InferConfig
from effnet_core.errors import DataError, OutputExists
from effnet_core.files import (
    atomic_path,
    make_folder,
    read_json,
    sha256_of_text,
    write_json,
)
from effnet_core.inputs import InputList
from effnet_core.predict import Prediction
from effnet_core.results import ShardResult

RUN_NAME = "run.json"
INPUTS_NAME = "inputs.jsonl"
PARTS_NAME = "predictions"
SHARDS_NAME = "shards"
ERRORS_NAME = "errors.jsonl"
SUMMARY_NAME = "summary.json"

COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("image_id", pa.string()),
    ("path", pa.string()),
    ("class_ids", pa.list_(pa.int32())),
    ("class_names", pa.list_(pa.string())),
    ("probs", pa.list_(pa.float32())),
)
OPTIONAL_COLUMNS = ("probabilities", "features")
"""Lists of float32, present where the settings of the same name ask for them."""
LISTS = ("class_ids", "class_names", "probs", *OPTIONAL_COLUMNS)
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Shard:
    """A contiguous piece of the input list and the part file that holds its answers."""

    index: int
    start: int
    stop: int
    part: str
    """File name of the part."""


@dataclass(frozen=True)
class Plan:
    """An input list cut into shards."""

    output: Path
    root: str
    """Folder or address that the paths are relative to."""
    images: int
    shards: tuple[Shard, ...]
    new: int
    """Images that no earlier run into this output had."""

    def missing(self) -> list[Shard]:
        """Shards that are still to do, in order."""
        return [shard for shard in self.shards if not self.is_done(shard)]

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard's part and its counts are there; each appears whole or not at all."""
        return self.part_path(shard).exists() and self.shard_path(shard).exists()

    def part_path(self, shard: Shard) -> Path:
        """Where a shard's answers go."""
        return self.output / PARTS_NAME / shard.part

    def shard_path(self, shard: Shard) -> Path:
        """Where a shard's counts go."""
        return self.output / SHARDS_NAME / f"{shard.part}.json"


def plan(
    listed: InputList,
    output: Path,
    *,
    model_sha256: str,
    infer: InferConfig,
    only_new: bool = False,
) -> Plan:
    """Cut an input list into shards and claim the output folder.

    A folder that holds the same run is continued: only what is missing will be done.

    Args:
        listed: the files, in the order of the answers.
        output: where answers go.
        model_sha256: digest of the checkpoint.
        infer: shard size, and what answers hold.
        only_new: add to the run in ``output`` the files that it has not seen, or that have changed since,
            whatever else is in the list.

    Raises:
        DataError: the output cannot be written to.
        OutputExists: the output folder holds another run or foreign files.
    """
    identity = {
        "model_sha256": model_sha256,
        "input": listed.root,
        "top_k": infer.top_k,
        "probabilities": infer.probabilities,
        "features": infer.features,
        "fast_decode": infer.fast_decode,
        "precision": infer.precision,
        "shard_images": infer.shard_images,
        "format": infer.format,
    }
    before = _claim(output, identity)
    lists = list(before.get("lists", []))
    entries = list(zip(listed.paths, listed.stamps, strict=True))
    if only_new and lists:
        seen = list(_read_entries(output, sum(lists)))
        known = set(seen)
        fresh = [entry for entry in entries if entry not in known]
        entries = seen + fresh
        lists += [len(fresh)] if fresh else []
    else:
        if lists:
            _require_same_list(output, list(_read_entries(output, sum(lists))), entries)
        fresh, lists = [] if lists else entries, lists or [len(entries)]
    _write_entries(output, entries)
    everything = sha256_of_text(*(path for path, _ in entries))
    write_json(output / RUN_NAME, {**identity, "lists": lists, "inputs_sha256": everything})
    shards = tuple(_cut(lists, entries, identity))
    return Plan(output, listed.root, len(entries), shards, len(fresh))


def _require_same_list(
    output: Path, before: Sequence[tuple[str, str]], now: Sequence[tuple[str, str]]
) -> None:
    """Refuse to go on with a run whose files are others now, or have other content."""
    how = "choose another folder, or --only-new to add the new files to it"
    if [path for path, _ in before] != [path for path, _ in now]:
        raise OutputExists(
            f"output folder {output} holds a run over another list of files ({len(before)}, now "
            f"{len(now)}); {how}"
        )
    changed = [path for (path, old), (_, new) in zip(before, now, strict=True) if old != new]
    if changed:
        raise OutputExists(
            f"{len(changed)} of {len(now)} files have changed since the run in output folder {output} "
            f"began, such as {changed[0]}; {how}"
        )


def _cut(
    lists: Sequence[int], entries: Sequence[tuple[str, str]], identity: dict[str, Any]
) -> Iterator[Shard]:
    """Shards, so that those of earlier lists stay what they were."""
    own = json.dumps(identity, sort_keys=True)
    index = first = 0
    for length in lists:
        end = first + length
        for start in range(first, end, identity["shard_images"]):
            stop = min(end, start + identity["shard_images"])
            digest = sha256_of_text(own, *(path for path, _ in entries[start:stop]))[:12]
            yield Shard(index, start, stop, f"part-{index:05d}-{digest}.{identity['format']}")
            index += 1
        first = end


def _write_entries(output: Path, entries: Sequence[tuple[str, str]]) -> None:
    with atomic_path(output / INPUTS_NAME) as temporary, temporary.open("w") as stream:
        for path, stamp in entries:
            stream.write(json.dumps([path, stamp]) + "\n")


def _read_entries(output: Path, stop: int, start: int = 0) -> Iterator[tuple[str, str]]:
    with (output / INPUTS_NAME).open() as stream:
        for line in itertools.islice(stream, start, stop):
            path, stamp = json.loads(line)
            yield path, stamp


def read_inputs(output: Path, start: int, stop: int) -> list[str]:
    """Some paths of a planned run."""
    return [path for path, _ in _read_entries(output, stop, start)]


def _claim(output: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run of the same left in ``run.json``; empty where there was none."""
    make_folder(output, what="output folder")
    path = output / RUN_NAME
    if path.exists():
        found: dict[str, Any] = read_json(path)
        changed = [key for key, value in identity.items() if found.get(key) != value]
        if changed:
            raise OutputExists(
                f"output folder {output} holds another run (differs in {', '.join(changed)}); "
                "choose another folder, or delete this one to start over"
            )
        return found
    if not all(_is_of_a_beginning(item.name) for item in output.iterdir()):
        raise OutputExists(f"output folder {output} is not empty; choose an empty one")
    return {}


def _is_of_a_beginning(name: str) -> bool:
    """Whether a run that was killed before it had its ``run.json`` may have left this file."""
    return name == INPUTS_NAME or name.startswith((f".{INPUTS_NAME}.", f".{RUN_NAME}."))


def write_part(path: Path, rows: Sequence[Prediction], *, model_sha256: str) -> None:
    """Write the answers of one shard, in the form that the name of ``path`` says."""
    columns = [name for name, _ in COLUMNS] + [
        name for name in OPTIONAL_COLUMNS if rows and getattr(rows[0], name) is not None
    ]
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, rows, columns, model_sha256)
        elif path.suffix == ".csv":
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, columns)
                writer.writeheader()
                for row in _plain(rows, columns):
                    texts = {
                        key: json.dumps(row[key], ensure_ascii=False) for key in LISTS if key in row
                    }
                    writer.writerow({**row, **texts})
        else:
            with temporary.open("w", encoding="utf-8") as stream:
                for row in _plain(rows, columns):
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _plain(rows: Sequence[Prediction], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for row in rows:
        values = {name: getattr(row, name) for name in columns}
        yield {
            name: value.tolist() if name in OPTIONAL_COLUMNS else value
            for name, value in values.items()
        }


def _write_parquet(
    path: Path, rows: Sequence[Prediction], columns: Sequence[str], model_sha256: str
) -> None:
    kinds = {**dict(COLUMNS), **dict.fromkeys(OPTIONAL_COLUMNS, pa.list_(pa.float32()))}
    schema = pa.schema([(name, kinds[name]) for name in columns])
    values = [pa.array([getattr(row, name) for row in rows], kinds[name]) for name in columns]
    table = pa.Table.from_arrays(values, schema=schema)
    pq.write_table(table.replace_schema_metadata({"model_sha256": model_sha256}), path)


def finish(done: Plan, *, infer: InferConfig, model_sha256: str) -> dict[str, Any]:
    """Write ``errors.jsonl`` and ``summary.json`` once every shard is there.

    Returns:
        The summary.

    Raises:
        DataError: a shard is missing, or too many files could not be read.
    """
    missing = done.missing()
    if missing:
        raise DataError(
            f"{len(missing)} of {len(done.shards)} shards are missing; run the same again"
        )
    errors = write_errors(done)
    labelled, histogram, reasons = 0, Counter[str](), Counter[str]()
    spans, latencies = [], []
    for shard in done.shards:
        result = ShardResult.from_dict(read_json(done.shard_path(shard)))
        labelled += result.labelled
        histogram.update(result.histogram)
        reasons.update(row["reason"] for row in result.rejected)
        spans.append((result.started, result.started + result.seconds))
        latencies += result.latency_ms
    seconds = covered(spans)
    summary = {
        "images": done.images,
        "labelled": labelled,
        "rejected": errors,
        "rejected_by_reason": dict(reasons.most_common()),
        "classes": dict(histogram.most_common()),
        "parts": [str(Path(PARTS_NAME) / shard.part) for shard in done.shards],
        "seconds": round(seconds, 3),
        "images_per_s": round(done.images / seconds, 2) if seconds else 0.0,
        "latency_ms": quantiles(latencies),
        "model_sha256": model_sha256,
    }
    write_json(done.output / SUMMARY_NAME, summary)
    if errors > allowed_errors(done.images, infer):
        raise too_many_errors(errors, done.images, infer, done.output)
    return summary


def write_errors(done: Plan) -> int:
    """Write ``errors.jsonl`` from the shards that are finished; returns how many files it names."""
    count = 0
    with atomic_path(done.output / ERRORS_NAME) as temporary, temporary.open("w") as stream:
        for shard in done.shards:
            if done.is_done(shard):
                for row in read_json(done.shard_path(shard))["rejected"]:
                    stream.write(json.dumps(row) + "\n")
                    count += 1
    return count


def allowed_errors(images: int, infer: InferConfig) -> int:
    """How many files may be without an answer."""
    return math.floor(images * infer.max_error_share + 1e-9)


def too_many_errors(errors: int, images: int, infer: InferConfig, output: Path) -> DataError:
    """What to say when it is more."""
    return DataError(
        f"{errors} of {images} files ({errors / images:.1%}) could not be labelled, more than "
        f"infer.max_error_share={infer.max_error_share:g} allows; see {output / ERRORS_NAME}"
    )


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in which at least one of some spans of time ran."""
    total, reached = 0.0, -math.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return total


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """``{"p50": ...}``; empty without values."""
    if not values:
        return {}
    found = np.quantile(np.array(values), QUANTILES)
    return {
        f"p{share * 100:g}": round(float(v), 3) for share, v in zip(QUANTILES, found, strict=True)
    }


def read_parts(output: Path) -> list[dict[str, Any]]:
    """All predictions of a finished run, in input order, whatever form they have."""
    return list(iter_rows(output))


def iter_rows(output: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Predictions of a finished run one by one, in input order, in constant memory.

    Args:
        output: folder of predictions.
        columns: what is wanted; everything when absent. Other columns may come too.
    """
    for path in sorted((output / PARTS_NAME).glob("part-*")):
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as part:
                for batch in part.iter_batches(columns=columns):
                    yield from batch.to_pylist()
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8", newline="\n") as stream:
                for line in stream:
                    yield json.loads(line)
        else:
            with path.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    lists = {key: json.loads(row[key]) for key in LISTS if key in row}
                    yield {**row, **lists}
