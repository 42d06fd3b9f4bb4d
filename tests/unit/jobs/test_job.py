"""What ranks and the parent leave for each other in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import errors, text
from effnet_core.errors import ConfigError, DataError, EffnetError, Interrupted, JobError
from effnet_core.jobs.job import (
    ERROR_NAME,
    KINDS,
    EngineChoice,
    EvaluateJob,
    Job,
    MindirJob,
    PredictJob,
    ProbeJob,
    QuantizeJob,
    RecordsJob,
    Shard,
    StageJob,
    TrainJob,
    TrialJob,
    VerifyJob,
    job_from_dict,
    job_to_dict,
    read_error,
    read_job,
    write_error,
    write_job_file,
)

OURS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, EffnetError)
]


JOBS: list[Job] = [
    TrainJob(Path("/ü"), "d", True),
    EvaluateJob(Path("/a.ckpt"), "s", Path("/data"), "val"),
    PredictJob(
        Path("/a.ckpt"),
        "s",
        engine="onnxruntime",
        engine_file=Path("/e.onnx"),
        output=Path("/out"),
        input_root="s3://b/in",
        shards=(Shard(0, 0, 5, "part-0", "s"), Shard(1, 5, 7, "part-1", "s")),
        allowed_errors=3,
    ),
    ProbeJob(
        Path("/a.ckpt"),
        "s",
        engine="onnxruntime",
        engine_file=Path("/e.onnx"),
        data_dir=Path("/data"),
    ),
    TrialJob(
        Path("/a.ckpt"),
        "s",
        choices=(
            EngineChoice("onnxruntime", "fp32", Path("/e.onnx")),
            EngineChoice("openvino", "int8", Path("/e.xml")),
        ),
        planned=Path("/out"),
        paths=("ü/1.jpg", "2.jpg"),
        share=0.002,
        within=0.01,
    ),
    QuantizeJob(
        Path("/a.ckpt"),
        "s",
        engine_file=Path("/e.onnx"),
        data_dir=Path("/data"),
        out=Path("/int8"),
        split="val",
        max_drop=0.005,
        images=256,
    ),
    VerifyJob(Path("/a.ckpt"), "s", Path("/m.onnx"), "onnx", (Path("/p.png"),)),
    MindirJob(Path("/a.ckpt"), "s", Path("/m.mindir")),
    RecordsJob(Path("/data"), ("train", "val")),
    StageJob("images", Path("/start"), Path("out"), 0.2, 0, 0.1),
]


def test_a_job_round_trips(tmp_path: Path) -> None:
    for job in JOBS:
        write_job_file(job, tmp_path)
        assert read_job(tmp_path) == job


def test_every_kind_round_trips_here() -> None:
    assert {type(job) for job in JOBS} == set(KINDS.values())


def test_what_a_job_does_not_know_is_refused(tmp_path: Path) -> None:
    good = job_to_dict(JOBS[0])
    for change, message in (
        ({"kind": "dance"}, "a job of kind 'dance' is unknown (known: train, evaluate"),
        ({"inputs": {**good["inputs"], "splt": "val"}}, "splt: Unexpected keyword argument"),
        ({"inputs": {"data_dir": "/d"}}, "data_digest: Field required"),
        (
            {"inputs": {**good["inputs"], "data_digest": 3}},
            "data_digest: Input should be a valid string",
        ),
        ({"inputs": None}, "inputs of a train job"),
    ):
        with pytest.raises(ValueError) as caught:
            job_from_dict({**good, **change})
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_run_of_an_earlier_version_is_understood() -> None:
    job = job_from_dict({"kind": "train", "inputs": {"data_dir": "/d", "data_digest": "x"}})
    assert job == TrainJob(Path("/d"), "x")


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
def test_mindspore_s_headings_are_not_what_is_reported(
    tmp_path: Path, text: str, told: str
) -> None:
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
