"""A job: work for one or more ranks in child processes, described by files in a folder.

RUN_DIR/
  config.yaml       settings; every rank reads this file
  job.json          what to do and with which inputs
  events.jsonl      what rank 0 has to tell while it works
  metrics.jsonl     one line a log interval (training)
  checkpoints/      training checkpoints (training)
  model.ckpt/.json  the finished model (training)
  result.json       the answer, or
  error.json        why there is none
  logs/             one log a rank, process ids, and room kept for the answer
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from effnet_core.checked import NONSENSE, check_fields, whole
from effnet_core.errors import DataError, EffnetError, JobError, error_type
from effnet_core.files import read_json, write_json
from effnet_core.text import in_one_line

JOB_NAME = "job.json"
EVENTS_NAME = "events.jsonl"
METRICS_NAME = "metrics.jsonl"
RESULT_NAME = "result.json"
ERROR_NAME = "error.json"
LOGS_NAME = "logs"
RESERVE_NAME = f"{LOGS_NAME}/.reserve"
RESERVE_BYTES = 16_384
"""Room that a job takes at its start and gives back for its answer, which a full disk would swallow."""
CHECKPOINTS_NAME = "checkpoints"

Kind = Literal["train", "evaluate", "predict", "verify", "mindir", "records"]


@dataclass(frozen=True)
class Job:
    """What a child process is asked to do."""

    kind: Kind
    inputs: dict[str, Any] = field(default_factory=dict)
    """JSON-ready arguments of the kind's function."""

    def write(self, run_dir: Path) -> None:
        """Leave the job in its folder for the ranks."""
        write_json(run_dir / JOB_NAME, asdict(self))

    @classmethod
    def read(cls, run_dir: Path) -> Job:
        """The job that lies in a folder.

        Raises:
            DataError: there is none, or it is damaged.
        """
        with whole(run_dir / JOB_NAME, "job"):
            return check_fields(cls, read_json(run_dir / JOB_NAME))


def reserve_room(run_dir: Path) -> None:
    """Take room on the disk for an answer; the folder of logs must be there.

    Raises:
        OSError: there is none.
    """
    (run_dir / RESERVE_NAME).write_bytes(b"\0" * RESERVE_BYTES)


def release_room(run_dir: Path) -> None:
    """Give back what ``reserve_room`` took."""
    (run_dir / RESERVE_NAME).unlink(missing_ok=True)


def write_error(run_dir: Path, error: BaseException, *, rank: int) -> None:
    """Leave an error for the parent; the first one stays."""
    path = run_dir / ERROR_NAME
    known = isinstance(error, EffnetError)
    text = str(error) if known else f"{type(error).__name__}: {in_one_line(error)}"
    if not path.exists():
        release_room(run_dir)
        write_json(
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
