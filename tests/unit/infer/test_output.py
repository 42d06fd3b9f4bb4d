"""The output folder of a batch inference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from effnet_core.config.schema import InferConfig
from effnet_core.data.manifest import image_id
from effnet_core.errors import DataError, OutputExists
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.output import ERRORS_NAME, SUMMARY_NAME, finish
from effnet_core.infer.parts import read_parts, write_part
from effnet_core.infer.pipeline import Prediction
from effnet_core.infer.plan import RUN_NAME, InferencePlan, plan, read_inputs, read_plan
from effnet_core.results import ShardResult
from effnet_core.system.files import read_json, read_jsonl, write_json

ODD_NAMES = [
    "comma, comma.jpg",
    'quote " quote.jpg',
    "line\nfeed.jpg",
    "carriage\r\nreturn.jpg",
    "separator\u2028\u2029\x85\x0c.jpg",
    "ünï/コード 🐈.jpg",
    "[1, 2].jpg",
    "'; --.jpg",
    " leading and trailing.jpg ",
]


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def planned(
    folder: Path, output: Path, *, model: str = "m", only_new: bool = False, **settings: Any
) -> InferencePlan:
    listed = list_inputs([folder], output)
    return plan(
        listed, output, model_sha256=model, infer=InferConfig(**settings), only_new=only_new
    )


def paths_of(result: InferencePlan) -> list[str]:
    lists = (read_inputs(result.output, shard) for shard in result.shards)
    return [entry.path for entries in lists for entry in entries]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "in", [f"{index:02d}.jpg" for index in range(10)])


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
    assert paths_of(result) == sorted(path.name for path in folder.iterdir())
    assert read_plan(tmp_path / "out").shards == result.shards


def test_the_input_list_survives_odd_names(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ODD_NAMES)
    result = planned(folder, tmp_path / "out")
    assert sorted(paths_of(result)) == sorted(ODD_NAMES)


def test_the_same_run_is_continued(folder: Path, tmp_path: Path) -> None:
    first = planned(folder, tmp_path / "out", shard_images=4)
    done = first.shards[1]
    write_part(first.part_path(done), [], model_sha256="m")
    assert not first.is_done(done)  # its count is not there yet
    write_json(first.shard_path(done), {})
    again = planned(folder, tmp_path / "out", shard_images=4)
    assert again == replace(first, new=0)
    assert [shard.index for shard in again.missing()] == [0, 2]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, "model_sha256"),
        ({"top_k": 1}, "top_k"),
        ({"shard_images": 5}, "shard_images"),
        ({"format": "csv"}, "format"),
        ({"probabilities": True}, "probabilities"),
        ({"features": True}, "features"),
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
    with pytest.raises(OutputExists, match=r"another list of files \(10, now 11\).*--only-new"):
        planned(folder, tmp_path / "out")


def test_a_file_that_has_changed_is_not_taken_for_what_was_labelled(
    folder: Path, tmp_path: Path
) -> None:
    planned(folder, tmp_path / "out")
    (folder / "03.jpg").write_bytes(b"something else")
    with pytest.raises(OutputExists, match=r"1 of 10 files have changed .* 03\.jpg; .*--only-new"):
        planned(folder, tmp_path / "out")


def test_a_run_that_was_killed_before_it_had_a_name_can_begin_again(
    folder: Path, tmp_path: Path
) -> None:
    first = planned(folder, tmp_path / "out")
    (tmp_path / "out" / RUN_NAME).unlink()
    (tmp_path / "out" / f".{RUN_NAME}.x1y2z3").write_text("{")
    assert planned(folder, tmp_path / "out") == first


def test_only_what_is_new_is_added(folder: Path, tmp_path: Path) -> None:
    first = planned(folder, tmp_path / "out", only_new=True, shard_images=4)
    assert (first.new, first.images, len(first.shards)) == (10, 10, 3)
    fill(folder, ["00-new.jpg", "new.jpg"])
    (folder / "03.jpg").write_bytes(b"changed since")
    (folder / "04.jpg").unlink()
    second = planned(folder, tmp_path / "out", only_new=True, shard_images=4)
    assert (second.new, second.images) == (3, 13)
    assert second.shards[:3] == first.shards  # what was labelled stays as it is
    assert paths_of(second)[10:] == ["00-new.jpg", "03.jpg", "new.jpg"]
    third = planned(folder, tmp_path / "out", only_new=True, shard_images=4)
    assert third == replace(second, new=0)
    fill(folder, ["later.jpg"])
    fourth = planned(folder, tmp_path / "out", only_new=True, shard_images=4)
    assert fourth.shards[:4] == second.shards
    assert [(shard.start, shard.stop) for shard in fourth.shards[3:]] == [(10, 13), (13, 14)]


def test_a_new_model_labels_what_is_new_and_what_was_left(folder: Path, tmp_path: Path) -> None:
    """As in a live folder whose production model moves on, in the middle of a run that was cut."""
    first = planned(folder, tmp_path / "out", only_new=True, shard_images=3)
    complete(first, only=[0, 2])
    write_part(first.part_path(first.shards[1]), [], model_sha256="m")  # killed before its counts
    fill(folder, ["new.jpg"])
    second = planned(folder, tmp_path / "out", only_new=True, shard_images=3, model="better")
    models = [shard.model_sha256 for shard in second.shards]
    assert models == ["m", "better", "m", "better", "better"]
    assert [(shard.start, shard.stop) for shard in second.shards] == [
        *((0, 3), (3, 6), (6, 9), (9, 10), (10, 11))
    ]
    assert [shard.index for shard in second.missing()] == [1, 3, 4]
    assert not first.part_path(first.shards[1]).exists()
    complete(second, only=[1, 3, 4])
    summary = finish(second, infer=InferConfig(), model_sha256="better")
    assert summary["labelled_by_model"] == {"m": 6, "better": 5}
    assert len({row["path"] for row in read_parts(tmp_path / "out")}) == summary["labelled"] == 11
    third = planned(folder, tmp_path / "out", only_new=True, shard_images=3, model="better")
    assert third == replace(second, new=0)
    with pytest.raises(OutputExists, match=r"differs in model_sha256"):
        planned(folder, tmp_path / "out", shard_images=3)


def test_settings_that_do_not_change_answers_may_change(folder: Path, tmp_path: Path) -> None:
    first = planned(folder, tmp_path / "out", batch_size=8)
    again = planned(folder, tmp_path / "out", batch_size=1, max_error_share=1.0)
    assert again == replace(first, new=0)


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
    columns = ("image_id", "path", "class_ids", "class_names", "probs")
    assert read_parts(tmp_path) == [{name: getattr(r, name) for name in columns} for r in rows]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_long_columns_are_there_where_asked_for(tmp_path: Path, form: str) -> None:
    every, pooled = np.float32([0.25, 0, 0.75]), np.float32([1.5, -2])
    row = replace(prediction("a"), probabilities=every, features=pooled)
    write_part(tmp_path / "predictions" / f"part-0.{form}", [row], model_sha256="m")
    [found] = read_parts(tmp_path)
    assert (found["probabilities"], found["features"]) == ([0.25, 0, 0.75], [1.5, -2])


def test_parquet_names_its_model(tmp_path: Path) -> None:
    write_part(tmp_path / "p.parquet", [prediction("a")], model_sha256="abc")
    assert pq.read_schema(tmp_path / "p.parquet").metadata == {b"model_sha256": b"abc"}


def test_csv_has_a_header_even_when_empty(tmp_path: Path) -> None:
    write_part(tmp_path / "p.csv", [], model_sha256="m")
    assert (tmp_path / "p.csv").read_text() == "image_id,path,class_ids,class_names,probs\n"


# --- the end -------------------------------------------------------------------------------------


def complete(
    result: InferencePlan,
    *,
    rejected: dict[int, list[dict[str, str]]] | None = None,
    only: Sequence[int] | None = None,
) -> None:
    for shard in result.shards:
        if only is not None and shard.index not in only:
            continue
        bad = (rejected or {}).get(shard.index, [])
        names = [
            name
            for name in paths_of(result)[shard.start : shard.stop]
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
            started=100.0 + shard.index,  # each overlaps the next by a second
            seconds=2.0,
            latency_ms=[10.0 * (shard.index + 1)],
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
    assert summary["seconds"] == 4
    assert summary["images_per_s"] == round(10 / 4, 2)
    assert summary["latency_ms"] == {"p50": 20.0, "p90": 28.0, "p99": 29.8}
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
    assert identity["lists"] == [10]
    assert identity["input"] == str(folder)
