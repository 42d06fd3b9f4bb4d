"""Where the parts of a run lie."""

from __future__ import annotations

from pathlib import Path

from effnet_core.auto.places import differing, is_staged, name_of, run_folder, staged_folder
from effnet_core.config.load import load_config, write_config
from effnet_core.jobs.job import RESULT_NAME, TrainJob, write_job_file
from effnet_core.system.files import write_json


def unfinished(folder: Path, photos: Path, *overrides: str) -> None:
    folder.mkdir(parents=True)
    write_job_file(TrainJob(staged_folder(photos, folder).resolve(), "digest"), folder)
    write_config(load_config("auto", overrides), folder)


def test_a_staged_set_is_taken_as_it_is(data_dir: Path, tmp_path: Path) -> None:
    assert is_staged(data_dir)
    assert staged_folder(data_dir, tmp_path / "run") == data_dir


def test_pictures_are_staged_beside_the_runs_under_a_name_of_their_own(tmp_path: Path) -> None:
    first = staged_folder(tmp_path / "a" / "photos", tmp_path / "runs" / "x")
    assert first.parent == tmp_path / "runs" / "staged"
    assert first.name.startswith("photos-")
    assert first == staged_folder(f"{tmp_path}/a/photos/", tmp_path / "runs" / "y")
    assert first != staged_folder(tmp_path / "b" / "photos", tmp_path / "runs" / "x")
    assert staged_folder("s3://bucket/pets", tmp_path / "r").name.startswith("pets-")


def test_a_name_of_any_path() -> None:
    assert name_of("s3://bucket/my pets/") == "my-pets"
    assert name_of("/") == name_of("..") == "pictures"


def test_an_unfinished_run_of_the_same_is_continued_and_another_gets_a_folder(
    tmp_path: Path,
) -> None:
    photos, runs, config = tmp_path / "photos", tmp_path / "runs", load_config("auto")
    assert run_folder(config, photos, runs) == runs / "photos"
    unfinished(runs / "photos", photos)
    assert run_folder(config, photos, runs) == runs / "photos"
    other = load_config("auto", ["train.epochs=3"])
    assert run_folder(other, photos, runs) == runs / "photos-2"
    write_json(runs / "photos" / RESULT_NAME, {})
    assert run_folder(config, photos, runs) == runs / "photos-2"


def test_only_what_is_given_and_not_places_can_differ() -> None:
    before = load_config("auto", ["train.epochs=7", "optim.base_lr=0.1"])
    now = load_config("auto", ["train.epochs=8", "storage.root=elsewhere"])
    assert differing(now, before) == ["train.epochs"]


def test_names_of_weights_and_a_variant_that_gave_way_do_not_differ() -> None:
    before = load_config(
        "auto", ["model.weights=/cache/x.ckpt", "model.variant=efficientnet_lite0"]
    )
    assert differing(load_config("auto", ["model.weights=efficientnet_lite0"]), before) == []
    assert differing(load_config("auto", ["model.variant=efficientnet_b3"]), before) == []
    assert differing(load_config("auto", ["model.weights=null"]), before) == ["model.weights"]
    given = load_config("auto", ["model.weights=x", "model.variant=efficientnet_b3"])
    assert differing(given, before) == ["model.variant"]
