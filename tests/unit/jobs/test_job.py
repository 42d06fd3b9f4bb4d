"""What ranks and the parent leave for each other in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import errors, text
from effnet_core.errors import ConfigError, DataError, EffnetError, Interrupted, JobError
from effnet_core.jobs.job import ERROR_NAME, Job, read_error, write_error

OURS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, EffnetError)
]


def test_a_job_round_trips(tmp_path: Path) -> None:
    job = Job("train", {"data_dir": "/ü", "shards": [{"start": 1}]})
    job.write(tmp_path)
    assert Job.read(tmp_path) == job


def test_no_error(tmp_path: Path) -> None:
    assert read_error(tmp_path) is None


@pytest.mark.parametrize("kind", OURS)
def test_our_errors_keep_type_and_text(tmp_path: Path, kind: type[EffnetError]) -> None:
    write_error(tmp_path, kind("what; 'ü'\nand more"), rank=3)
    error = read_error(tmp_path)
    assert type(error) is kind
    assert str(error) == "what; 'ü'\\nand more"  # a name may hold a line's end, a message may not
    assert error.retryable is kind.retryable


def test_a_foreign_error_names_rank_and_log(tmp_path: Path) -> None:
    write_error(tmp_path, ValueError("\n\n  first line\nsecond"), rank=2)
    error = read_error(tmp_path)
    assert type(error) is JobError
    assert str(error) == (
        f"rank 2 failed (ValueError: first line); the whole story is in {tmp_path}/logs/worker_2.log"
    )


CUDA = """
----------------------------------------------------
- Cuda error:
----------------------------------------------------
CUDA driver version is insufficient

----------------------------------------------------
- C++ Call Stack: (For framework developers)
----------------------------------------------------
cuda_driver.cc:292 device_count
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CUDA, "Cuda error: CUDA driver version is insufficient"),
        ("For 'Conv2D', no.\n\n-----\n- C++ Call Stack:\n-----\nabc.cc:1", "For 'Conv2D', no."),
        ("- Framework Unexpected Exception Raised:", "Framework Unexpected Exception Raised:"),
    ],
)
def test_mindspore_s_headings_are_not_what_is_told(tmp_path: Path, text: str, told: str) -> None:
    write_error(tmp_path, RuntimeError(text), rank=0)
    assert f"(RuntimeError: {told})" in str(read_error(tmp_path))


def test_a_foreign_error_without_text(tmp_path: Path) -> None:
    write_error(tmp_path, KeyError(), rank=0)
    assert "KeyError: no message" in str(read_error(tmp_path))


def test_the_first_error_stays(tmp_path: Path) -> None:
    write_error(tmp_path, DataError("first"), rank=1)
    write_error(tmp_path, ConfigError("second"), rank=0)
    error = read_error(tmp_path)
    assert (type(error), str(error)) == (DataError, "first")


def test_an_error_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ERROR_NAME).write_text("{")
    assert "cannot be read" in str(read_error(tmp_path))


def test_retryable_flags() -> None:
    assert {kind.__name__ for kind in OURS if kind.retryable} == {
        "DownloadFailed",
        "InputLost",
        "StoreBusy",
        "WorkerLost",
        "JobTimeout",
        "Interrupted",
        "FolderInUse",
        "WorkerStalled",
    }
    assert Interrupted("x").retryable


def test_error_types_by_name() -> None:
    assert all(errors.error_type(kind.__name__) is kind for kind in OURS)
    for name in ("NoSuchError", "Iterable", "difflib", ""):
        assert errors.error_type(name) is JobError


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = [
        line.split("-- ")[1].split()[0] for line in errors.__doc__.splitlines() if "-- " in line
    ]
    assert sorted(drawn) == sorted(kind.__name__ for kind in OURS if kind is not EffnetError)


@pytest.mark.parametrize(
    ("name", "hint"), [("digit", "; did you mean 'digits'?"), ("zzz", ""), ("", "")]
)
def test_nearest(name: str, hint: str) -> None:
    assert text.nearest(name, ["digits", "flowers"]) == hint
