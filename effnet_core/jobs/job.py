"""A job: work for one or more ranks in child processes, described by files in a folder.

RUN_DIR/
  config.yaml       settings; every rank reads this file
  job.json          what to do and with which inputs
  events.jsonl      what rank 0 has to tell while it works
  metrics.jsonl     one line a log interval (training)
  checkpoints/      training checkpoints (training)
  model.ckpt/.json  the finished model (training)
  answers.npz       what the model said of each image (training, evaluation)
  probe/            the job that fitted a classifier first, with its model (training)
  result.json       the answer, or
  error.json        why there is none
  logs/             one log a rank, process ids, and room kept for the answer
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError

from effnet_core.errors import DataError, EffnetError, JobError, error_type
from effnet_core.results.checked import NONSENSE, first_problem, whole
from effnet_core.system.files import UNFINISHED, put_in_place, read_json, write_json
from effnet_core.text import in_one_line

JOB_NAME = "job.json"
EVENTS_NAME = "events.jsonl"
METRICS_NAME = "metrics.jsonl"
RESULT_NAME = "result.json"
ERROR_NAME = "error.json"
LOGS_NAME = "logs"
RESERVE_NAME = f"{LOGS_NAME}/.reserve"
RESERVE_BYTES = 16_384
"""Size of a file that is there from a job's start and becomes its answer: a full disk has no room for one."""
CHECKPOINTS_NAME = "checkpoints"
PROBE_NAME = "probe"


@dataclass(frozen=True)
class _Given:
    """What each kind of job has in common: it travels as JSON, and unknown keys are refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class TrainJob(_Given):
    """Train in the job's folder, anew or from its last checkpoint."""

    data_dir: Path
    data_digest: str
    from_production: bool = False
    """Whether ``model.weights`` was ``production``; the settings hold the version that was it then."""


@dataclass(frozen=True)
class _OfCheckpoint(_Given):
    """What jobs that use a checkpoint are given."""

    checkpoint: Path
    checkpoint_sha256: str
    """The digest that the parent found; the ranks refuse another."""


@dataclass(frozen=True)
class EvaluateJob(_OfCheckpoint):
    """Measure a checkpoint on a split."""

    data_dir: Path
    split: str
    labels: tuple[int, ...] | None = None
    """The model's number of each class of the data set, -1 where it does not know the class; by default
    both have the same classes."""


@dataclass(frozen=True)
class Shard:
    """A contiguous piece of an inference's input list and the part file that holds its answers."""

    index: int
    start: int
    stop: int
    part: str
    """File name of the part."""
    model_sha256: str
    """Digest of the model that labels it, or has."""
    begin: int = 0
    """Where its lines begin in the input list, bytes."""
    end: int = 0

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class PredictJob(_OfCheckpoint):
    """Label shards of a planned inference."""

    engine: str
    engine_file: Path | None
    """What the engine runs; None where it needs no more than the checkpoint."""
    output: Path
    input_root: str
    """Folder or address that the paths of the input list are relative to."""
    shards: tuple[Shard, ...]
    allowed_errors: int
    """How many files may be without an answer."""
    reference: Path | None = None
    """What the pictures are compared with, where the model has it beside it."""
    members: bool = False
    """Whether the files are members of archives or rows of tables."""
    columns: tuple[tuple[str, str], ...] = ()
    """Names and types of the columns that are carried through."""
    remote: str = ""
    """Address of the output where it is in a bucket."""
    list_key: str = ""
    """The list of inputs in the bucket."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, in what it computes, and what it runs."""

    engine: str
    precision: str
    file: Path | None

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class TrialJob(_OfCheckpoint):
    """Compare engines over some pictures, by speed and by their answers."""

    choices: tuple[EngineChoice, ...]
    """The first is what the others are compared with."""
    planned: Path
    """Folder of the run's plan, which tells where its pictures lie."""
    paths: tuple[str, ...]
    """Some of the run's, in the order in which they are tried."""
    share: float
    """Of the pictures at most so many may have another answer."""
    within: float
    """A probability that differs by more is another answer."""


@dataclass(frozen=True)
class QuantizeJob(_OfCheckpoint):
    """Make the int8 network of a checkpoint and measure it."""

    engine_file: Path
    """The network in fp32."""
    data_dir: Path
    out: Path
    """Folder for its files."""
    split: str
    """Whose images decide."""
    max_drop: float
    images: int
    """Training images from which ranges are taken."""


@dataclass(frozen=True)
class ProbeJob(_OfCheckpoint):
    """Fit a classifier on the features of a checkpoint, and save both as the model of the job's folder."""

    engine: str
    engine_file: Path | None
    """What computes features; None where it needs no more than the checkpoint."""
    data_dir: Path


@dataclass(frozen=True)
class VerifyJob(_OfCheckpoint):
    """Compare an exported file or an engine file with MindSpore's logits."""

    file: Path
    format: str
    pictures: tuple[Path, ...]
    image_size: int | None = None
    """Side of the input, px, where it is not the checkpoint's."""


@dataclass(frozen=True)
class MindirJob(_OfCheckpoint):
    """Write a checkpoint as MindIR."""

    file: Path
    image_size: int | None = None
    """Side of the input, px, where it is not the checkpoint's."""


@dataclass(frozen=True)
class RecordsJob(_Given):
    """Write the MindRecord files of some splits."""

    data_dir: Path
    splits: tuple[str, ...]


@dataclass(frozen=True)
class StageJob(_Given):
    """Stage a data set into a folder that the parent keeps to the job."""

    source: str
    start: Path
    """Folder that a relative source starts from."""
    out: Path
    val_share: float
    seed: int
    max_rejected_share: float
    corrections: Path | None = None
    """CSV file with what people decided about pictures."""


Job: TypeAlias = (
    TrainJob
    | EvaluateJob
    | PredictJob
    | TrialJob
    | QuantizeJob
    | ProbeJob
    | VerifyJob
    | MindirJob
    | RecordsJob
    | StageJob
)

KINDS: dict[str, type[Job]] = {
    "train": TrainJob,
    "evaluate": EvaluateJob,
    "predict": PredictJob,
    "trial": TrialJob,
    "quantize": QuantizeJob,
    "probe": ProbeJob,
    "verify": VerifyJob,
    "mindir": MindirJob,
    "records": RecordsJob,
    "stage": StageJob,
}


def job_to_dict(job: Job) -> dict[str, Any]:
    """A job as JSON-ready values: its kind, and its inputs by name."""
    kind = next(name for name, known in KINDS.items() if type(job) is known)
    return {"kind": kind, "inputs": TypeAdapter(type(job)).dump_python(job, mode="json")}


def job_from_dict(values: dict[str, Any]) -> Job:
    """The job of ``job_to_dict``.

    Raises:
        ValueError: its kind is unknown, or its inputs are not those of the kind.
    """
    kind = KINDS.get(values.get("kind", ""))
    if kind is None:
        raise ValueError(
            f"a job of kind {values.get('kind')!r} is unknown (known: {', '.join(KINDS)})"
        )
    try:
        job: Job = TypeAdapter(kind).validate_python(values.get("inputs"))
    except ValidationError as cause:
        raise ValueError(f"inputs of a {values['kind']} job: {first_problem(cause)}") from cause
    return job


def write_job_file(job: Job, run_dir: Path) -> None:
    """Leave a job in its folder for the ranks."""
    write_json(run_dir / JOB_NAME, job_to_dict(job))


def read_job(run_dir: Path) -> Job:
    """The job that lies in a folder.

    Raises:
        DataError: there is none, or it is damaged.
    """
    with whole(run_dir / JOB_NAME, "job"):
        return job_from_dict(read_json(run_dir / JOB_NAME))


def reserve_room(run_dir: Path) -> None:
    """Take room on the disk for an answer; the folder of logs must be there.

    Raises:
        OSError: there is none.
    """
    (run_dir / RESERVE_NAME).write_bytes(b"\0" * RESERVE_BYTES)


def write_result(run_dir: Path, values: dict[str, Any]) -> None:
    """Leave a job's result for the parent, also on a full disk where it is not long.

    Raises:
        OSError: it cannot be written; an error can still be left.
    """
    _write_answer(run_dir / RESULT_NAME, values)


def _write_answer(path: Path, values: dict[str, Any]) -> None:
    """Write JSON into the room that was reserved for it, and give that the answer's name."""
    reserve = path.parent / RESERVE_NAME
    content = json.dumps(values, indent=2, ensure_ascii=False).encode(errors="backslashreplace")
    if len(content) < RESERVE_BYTES:
        mine = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
        with suppress(FileNotFoundError):  # another rank has it
            reserve.rename(mine)
            with mine.open("r+b") as stream:
                stream.write(content + b"\n")
                stream.truncate()
            put_in_place(mine, path)
            return
    write_json(path, values)
    reserve.unlink(missing_ok=True)


def write_error(run_dir: Path, error: BaseException, *, rank: int) -> None:
    """Leave an error for the parent; the first one stays."""
    path = run_dir / ERROR_NAME
    known = isinstance(error, EffnetError)
    text = str(error) if known else f"{type(error).__name__}: {in_one_line(error)}"
    if not path.exists():
        _write_answer(
            path,
            {
                "type": type(error).__name__ if known else JobError.__name__,
                "message": text,
                "rank": rank,
                "known": known,
            },
        )


def read_error(run_dir: Path) -> EffnetError | None:
    """The error that a rank left, as one of our types, or None."""
    path = run_dir / ERROR_NAME
    if not path.exists():
        return None
    try:
        values = read_json(path)
        message, kind = str(values["message"]), error_type(str(values["type"]))
        known, rank = values["known"], int(values["rank"])
    except (*NONSENSE, DataError):
        return JobError(f"the job failed, and its error in {path} cannot be read")
    if not known:
        log = run_dir / LOGS_NAME / f"worker_{rank}.log"
        message = f"rank {rank} failed ({message}); the whole story is in {log}"
    return kind(message)
