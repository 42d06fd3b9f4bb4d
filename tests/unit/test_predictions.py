"""The output folder of a batch inference."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from effnet_core.config import InferConfig
from effnet_core.data.manifest import image_id
from effnet_core.errors import DataError, OutputExists
from effnet_core.files import read_json, read_jsonl, write_json
from effnet_core.predict import Prediction
from effnet_core.predictions import (
    ERRORS_NAME,
    RUN_NAME,
    SUMMARY_NAME,
    Plan,
    finish,
    list_inputs,
    plan,
    read_inputs,
    read_parts,
    write_part,
)
from effnet_core.results import ShardResult

ODD_NAMES = [
    "comma, comma.jpg",
    'quote " quote.jpg',
    "line\nfeed.jpg",
    "carriage\r\nreturn.jpg",
    "separator\u2028\u2029\x85\x0c.jpg",
    "ünï/コード 🐈.jpg",
    "[1, 2].jpg",
    "'; --.jpg",
    " leading and trailing ",
]


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def planned(folder: Path, output: Path, *, model: str = "m", **settings: object) -> Plan:
    root, paths = list_inputs([folder], output)
    return plan(root, paths, output, model_sha256=model, infer=InferConfig(**settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "in", [f"{index:02d}.jpg" for index in range(10)])


# --- inputs --------------------------------------------------------------------------------------


def test_a_folder_is_listed_in_order_at_any_depth_without_hidden_files(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ["b.jpg", "a/z.jpg", "a/b/c.jpg", ".hidden", ".git/x", "a/.y"])
    assert list_inputs([folder], tmp_path / "out") == (folder, ("a/b/c.jpg", "a/z.jpg", "b.jpg"))


def test_files_are_taken_as_they_are(tmp_path: Path) -> None:
    fill(tmp_path, ["a/1.jpg", "b/2.jpg"])
    files = [tmp_path / "b/2.jpg", tmp_path / "a/1.jpg", tmp_path / "b/2.jpg"]
    assert list_inputs(files, tmp_path / "out") == (tmp_path, ("a/1.jpg", "b/2.jpg"))


def test_inputs_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_inputs([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no files"):
        list_inputs([tmp_path / "empty"], tmp_path / "out")


@pytest.mark.parametrize("inner", [".", "out", "a/b/out"])
def test_the_output_may_not_lie_inside_the_input(folder: Path, inner: str) -> None:
    with pytest.raises(OutputExists, match="lies inside the input folder"):
        list_inputs([folder], folder / inner)


# --- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "cuts"),
    [
        (1, [(i, i + 1) for i in range(10)]),
        (4, [(0, 4), (4, 8), (8, 10)]),
        (5, [(0, 5), (5, 10)]),
        (10, [(0, 10)]),
        (4096, [(0, 10)]),
    ],
)
def test_shards_cut_the_list(
    folder: Path, tmp_path: Path, size: int, cuts: list[tuple[int, int]]
) -> None:
    result = planned(folder, tmp_path / "out", shard_images=size)
    assert [(shard.start, shard.stop) for shard in result.shards] == cuts
    assert [shard.index for shard in result.shards] == list(range(len(cuts)))
    assert len({shard.part for shard in result.shards}) == len(cuts)
    assert result.missing() == list(result.shards)
    assert read_inputs(tmp_path / "out") == list(result.paths)


def test_the_input_list_survives_odd_names(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ODD_NAMES)
    result = planned(folder, tmp_path / "out")
    assert sorted(result.paths) == sorted(ODD_NAMES)
    assert read_inputs(tmp_path / "out") == list(result.paths)


def test_the_same_run_is_continued(folder: Path, tmp_path: Path) -> None:
    first = planned(folder, tmp_path / "out", shard_images=4)
    done = first.shards[1]
    write_part(first.part_path(done), [], model_sha256="m")
    assert not first.is_done(done)  # its count is not there yet
    write_json(first.shard_path(done), {})
    again = planned(folder, tmp_path / "out", shard_images=4)
    assert again == first
    assert [shard.index for shard in again.missing()] == [0, 2]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, "model_sha256"),
        ({"top_k": 1}, "top_k"),
        ({"shard_images": 5}, "shard_images"),
        ({"format": "csv"}, "format"),
    ],
)
def test_another_run_is_refused_by_name(
    folder: Path, tmp_path: Path, change: dict[str, object], named: str
) -> None:
    planned(folder, tmp_path / "out")
    with pytest.raises(OutputExists, match=rf"holds another run \(differs in {named}\)"):
        planned(folder, tmp_path / "out", **change)


def test_another_input_is_refused(folder: Path, tmp_path: Path) -> None:
    planned(folder, tmp_path / "out")
    fill(folder, ["new.jpg"])
    with pytest.raises(OutputExists, match="differs in inputs_sha256, images"):
        planned(folder, tmp_path / "out")


def test_settings_that_do_not_change_answers_may_change(folder: Path, tmp_path: Path) -> None:
    first = planned(folder, tmp_path / "out", batch_size=8)
    assert planned(folder, tmp_path / "out", batch_size=1, max_error_share=1.0) == first


def test_a_folder_with_other_files_is_refused_and_left_alone(folder: Path, tmp_path: Path) -> None:
    output = fill(tmp_path / "out", ["thesis.txt"])
    with pytest.raises(OutputExists, match="is not empty; choose an empty one"):
        planned(folder, output)
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


def test_an_output_that_cannot_be_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="cannot be written to"):
        planned(folder, tmp_path / "out")


def test_part_names_follow_model_and_content(folder: Path, tmp_path: Path) -> None:
    first = planned(folder, tmp_path / "a")
    other = planned(folder, tmp_path / "b", model="other")
    assert first.shards[0].part != other.shards[0].part


# --- parts ---------------------------------------------------------------------------------------


def prediction(name: str) -> Prediction:
    return Prediction(image_id(name), name, [2, 0], [f"class {name}", 'a,"b"\n'], [0.75, 0.25])


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_parts_round_trip_whatever_the_names(tmp_path: Path, form: str) -> None:
    rows = [prediction(name) for name in ODD_NAMES]
    parts = tmp_path / "predictions"
    write_part(parts / f"part-00000-a.{form}", rows[:4], model_sha256="m")
    write_part(parts / f"part-00001-b.{form}", rows[4:], model_sha256="m")
    write_part(parts / f"part-00002-c.{form}", [], model_sha256="m")
    assert read_parts(tmp_path) == [vars(row) for row in rows]


def test_parquet_names_its_model(tmp_path: Path) -> None:
    write_part(tmp_path / "p.parquet", [prediction("a")], model_sha256="abc")
    assert pq.read_schema(tmp_path / "p.parquet").metadata == {b"model_sha256": b"abc"}


def test_csv_has_a_header_even_when_empty(tmp_path: Path) -> None:
    write_part(tmp_path / "p.csv", [], model_sha256="m")
    assert (tmp_path / "p.csv").read_text() == "image_id,path,class_ids,class_names,probs\n"


# --- the end -------------------------------------------------------------------------------------


def complete(result: Plan, *, rejected: dict[int, list[dict[str, str]]] | None = None) -> None:
    for shard in result.shards:
        bad = (rejected or {}).get(shard.index, [])
        names = [
            name
            for name in result.paths[shard.start : shard.stop]
            if name not in {row["path"] for row in bad}
        ]
        write_part(result.part_path(shard), [prediction(n) for n in names], model_sha256="m")
        counts = ShardResult(
            part=shard.part,
            start=shard.start,
            stop=shard.stop,
            labelled=len(names),
            rejected=bad,
            histogram={"cat": len(names)},
            seconds=2.0,
        )
        write_json(result.shard_path(shard), counts.to_dict())


def test_finish_counts(folder: Path, tmp_path: Path) -> None:
    result = planned(folder, tmp_path / "out", shard_images=4)
    bad = [{"path": "05.jpg", "reason": "empty file"}]
    complete(result, rejected={1: bad})
    summary = finish(result, infer=InferConfig(), model_sha256="m")
    assert summary == read_json(tmp_path / "out" / SUMMARY_NAME)
    assert summary["images"] == 10
    assert summary["labelled"] == 9
    assert summary["rejected"] == 1
    assert summary["rejected_by_reason"] == {"empty file": 1}
    assert summary["classes"] == {"cat": 9}
    assert summary["images_per_s"] == round(10 / 6, 2)
    assert [tmp_path / "out" / part for part in summary["parts"]] == [
        result.part_path(shard) for shard in result.shards
    ]
    assert read_jsonl(tmp_path / "out" / ERRORS_NAME) == bad
    assert len(read_parts(tmp_path / "out")) == 9


def test_finish_twice_does_not_double_errors(folder: Path, tmp_path: Path) -> None:
    result = planned(folder, tmp_path / "out")
    complete(result, rejected={0: [{"path": "05.jpg", "reason": "empty file"}]})
    first = finish(result, infer=InferConfig(), model_sha256="m")
    assert finish(result, infer=InferConfig(), model_sha256="m") == first
    assert len(read_jsonl(tmp_path / "out" / ERRORS_NAME)) == 1


def test_finish_wants_every_shard(folder: Path, tmp_path: Path) -> None:
    result = planned(folder, tmp_path / "out", shard_images=4)
    complete(result)
    result.shard_path(result.shards[2]).unlink()
    with pytest.raises(DataError, match="1 of 3 shards are missing"):
        finish(result, infer=InferConfig(), model_sha256="m")
    assert not (tmp_path / "out" / SUMMARY_NAME).exists()


def test_too_many_errors_are_refused_but_told(folder: Path, tmp_path: Path) -> None:
    result = planned(folder, tmp_path / "out")
    bad = [{"path": f"0{i}.jpg", "reason": "empty file"} for i in (1, 2)]
    complete(result, rejected={0: bad})
    with pytest.raises(DataError) as caught:
        finish(result, infer=InferConfig(max_error_share=0.1), model_sha256="m")
    assert str(caught.value) == (
        "2 of 10 files (20.0%) could not be labelled, more than infer.max_error_share=0.1 allows; "
        f"see {tmp_path / 'out' / ERRORS_NAME}"
    )
    assert read_json(tmp_path / "out" / SUMMARY_NAME)["rejected"] == 2
    assert finish(result, infer=InferConfig(max_error_share=0.2), model_sha256="m")


def test_a_run_is_known_by_a_file_that_people_can_read(folder: Path, tmp_path: Path) -> None:
    planned(folder, tmp_path / "out")
    identity = json.loads((tmp_path / "out" / RUN_NAME).read_text())
    assert identity["images"] == 10
    assert identity["input"] == str(folder)
