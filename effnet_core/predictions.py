"""The output folder of a batch inference: part files that are whole, each image exactly once.

OUTPUT/
  run.json              digests of model and input list, settings; refuses another run's parts
  inputs.txt            the files, relative to the input folder, one JSON string a line
  predictions/part-*    one file a shard, named by its position and by digests
  shards/*.json         what each finished shard counted
  errors.jsonl          path and reason of files without an answer
  summary.json          totals
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from effnet_core.config import InferConfig
from effnet_core.errors import DataError, OutputExists
from effnet_core.files import (
    append_jsonl,
    atomic_path,
    make_folder,
    os_reason,
    read_json,
    sha256_of_text,
    write_json,
    write_text,
)
from effnet_core.predict import Prediction
from effnet_core.results import ShardResult

RUN_NAME = "run.json"
INPUTS_NAME = "inputs.txt"
PARTS_NAME = "predictions"
SHARDS_NAME = "shards"
ERRORS_NAME = "errors.jsonl"
SUMMARY_NAME = "summary.json"

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("class_ids", pa.list_(pa.int32())),
        ("class_names", pa.list_(pa.string())),
        ("probs", pa.list_(pa.float32())),
    ]
)


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
    input_root: Path
    paths: tuple[str, ...]
    shards: tuple[Shard, ...]

    def missing(self) -> list[Shard]:
        """Shards that have not been finished yet."""
        return [shard for shard in self.shards if not self.is_done(shard)]

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard's part and its count are both in place."""
        return self.part_path(shard).exists() and self.shard_path(shard).exists()

    def part_path(self, shard: Shard) -> Path:
        """Where a shard's predictions lie."""
        return self.output / PARTS_NAME / shard.part

    def shard_path(self, shard: Shard) -> Path:
        """Where a shard's counts lie."""
        return self.output / SHARDS_NAME / f"{shard.part}.json"


def list_inputs(inputs: Sequence[Path], output: Path) -> tuple[Path, tuple[str, ...]]:
    """What there is to label.

    Args:
        inputs: one folder, of which every visible file at any depth counts, or files.
        output: where answers will go; must not lie inside the folder.

    Returns:
        A folder, and paths relative to it, sorted.

    Raises:
        DataError: the input is missing, unreadable or empty.
        OutputExists: the output lies inside the input folder.
    """
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise DataError(f"input {missing[0]} does not exist")
    folders = [path for path in inputs if path.is_dir()]
    if not folders:
        root = Path(os.path.commonpath([path.absolute().parent for path in inputs]))
        return root, tuple(sorted({str(path.absolute().relative_to(root)) for path in inputs}))
    if len(inputs) > 1:
        raise DataError(
            f"give one folder or several files, not {len(inputs)} inputs with {folders[0]}"
        )
    if output.resolve().is_relative_to(folders[0].resolve()):
        raise OutputExists(
            f"output folder {output} lies inside the input folder {folders[0]}; choose another"
        )
    return folders[0], _list_folder(folders[0])


def _list_folder(folder: Path) -> tuple[str, ...]:
    try:
        paths = sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    except OSError as cause:
        raise DataError(f"input folder {folder} cannot be read ({os_reason(cause)})") from cause
    if not paths:
        raise DataError(f"input folder {folder} has no files")
    return tuple(paths)


def plan(
    input_root: Path,
    paths: tuple[str, ...],
    output: Path,
    *,
    model_sha256: str,
    infer: InferConfig,
) -> Plan:
    """Cut an input list into shards and claim the output folder.

    A folder that holds the same run is continued: only what is missing will be done.

    Args:
        input_root: folder that ``paths`` are relative to.
        paths: the files, in the order of the answers.
        output: where answers go.
        model_sha256: digest of the checkpoint.
        infer: shard size, top-k and form.

    Raises:
        DataError: the output cannot be written to.
        OutputExists: the output folder holds another run or foreign files.
    """
    inputs_digest = sha256_of_text(*paths)
    identity = {
        "model_sha256": model_sha256,
        "inputs_sha256": inputs_digest,
        "images": len(paths),
        "input": str(input_root.resolve()),
        "top_k": infer.top_k,
        "shard_images": infer.shard_images,
        "format": infer.format,
    }
    _claim(output, identity)
    write_text(output / INPUTS_NAME, "".join(json.dumps(path) + "\n" for path in paths))
    shards = []
    for index, start in enumerate(range(0, len(paths), infer.shard_images)):
        stop = min(len(paths), start + infer.shard_images)
        digest = sha256_of_text(model_sha256, str(infer.top_k), *paths[start:stop])[:12]
        shards.append(Shard(index, start, stop, f"part-{index:05d}-{digest}.{infer.format}"))
    return Plan(output, input_root, paths, tuple(shards))


def read_inputs(output: Path) -> list[str]:
    """The input list of a planned run."""
    lines = (output / INPUTS_NAME).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _claim(output: Path, identity: dict[str, Any]) -> None:
    make_folder(output, what="output folder")
    path = output / RUN_NAME
    if path.exists():
        found = read_json(path)
        changed = [key for key, value in identity.items() if found.get(key) != value]
        if changed:
            raise OutputExists(
                f"output folder {output} holds another run (differs in {', '.join(changed)}); "
                "choose another folder, or delete this one to start over"
            )
    elif any(output.iterdir()):
        raise OutputExists(f"output folder {output} is not empty; choose an empty one")
    write_json(path, identity)


def write_part(path: Path, rows: Sequence[Prediction], *, model_sha256: str) -> None:
    """Write the predictions of one shard in the form that the file's name says, atomically."""
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
            table = table.replace_schema_metadata({"model_sha256": model_sha256})
            pq.write_table(table, temporary)
        elif path.suffix == ".csv":
            _write_csv(temporary, rows)
        else:
            with temporary.open("w", encoding="utf-8") as stream:
                for row in rows:
                    stream.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def _write_csv(path: Path, rows: Sequence[Prediction]) -> None:
    """Lists as JSON in their cells, so that names may hold any character."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(SCHEMA.names)
        for row in rows:
            lists = (row.class_ids, row.class_names, row.probs)
            writer.writerow(
                [row.image_id, row.path, *(json.dumps(x, ensure_ascii=False) for x in lists)]
            )


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
    results = [ShardResult.from_dict(read_json(done.shard_path(shard))) for shard in done.shards]
    errors = [row for result in results for row in result.rejected]
    (done.output / ERRORS_NAME).write_text("", encoding="utf-8")
    for row in errors:
        append_jsonl(done.output / ERRORS_NAME, row)
    labelled = sum(result.labelled for result in results)
    seconds = sum(result.seconds for result in results)
    histogram: Counter[str] = Counter()
    for result in results:
        histogram.update(result.histogram)
    summary = {
        "images": len(done.paths),
        "labelled": labelled,
        "rejected": len(errors),
        "rejected_by_reason": dict(Counter(row["reason"] for row in errors).most_common()),
        "classes": dict(histogram.most_common()),
        "parts": [str(Path(PARTS_NAME) / shard.part) for shard in done.shards],
        "seconds": round(seconds, 3),
        "images_per_s": round(len(done.paths) / seconds, 2) if seconds else 0.0,
        "model_sha256": model_sha256,
    }
    write_json(done.output / SUMMARY_NAME, summary)
    share = len(errors) / len(done.paths)
    if share > infer.max_error_share:
        raise DataError(
            f"{len(errors)} of {len(done.paths)} files ({share:.1%}) could not be labelled, more than "
            f"infer.max_error_share={infer.max_error_share:g} allows; see {done.output / ERRORS_NAME}"
        )
    return summary


def read_parts(output: Path) -> list[dict[str, Any]]:
    """All predictions of a finished run, in input order, whatever form they have."""
    rows: list[dict[str, Any]] = []
    for path in sorted((output / PARTS_NAME).glob("part-*")):
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
        elif path.suffix == ".jsonl":
            text = path.read_text(encoding="utf-8")
            rows += [json.loads(line) for line in text.split("\n") if line]
        else:
            with path.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    lists = ("class_ids", "class_names", "probs")
                    rows.append({**row, **{key: json.loads(row[key]) for key in lists}})
    return rows
