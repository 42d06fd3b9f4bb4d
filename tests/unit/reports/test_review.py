"""The review queue: what is in it, and the page that saves what people decide."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effnet_core.config.schema import InferConfig, RunConfig
from effnet_core.data.corrections import read_corrections
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError, OutputExists
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.output import finish
from effnet_core.infer.parts import write_part
from effnet_core.infer.pipeline import Prediction
from effnet_core.infer.plan import SHARDS_NAME, plan
from effnet_core.infer.sinks import OBSERVED_SUFFIX
from effnet_core.jobs.job import write_job_file
from effnet_core.reports.review import suspicious, write_queue
from effnet_core.results import ShardResult
from effnet_core.results.drift import Observed
from effnet_core.system.files import write_json
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.fakes import engine_job
from tests.support.images import class_folders, draw, encode
from tests.support.services import missing
from tests.support.weights import make_checkpoint

CONFIG = RunConfig()
NAMES = ("<i>cat</i>", 'dog, "big"', "owl")


def labelled(folder: Path, output: Path, *, class_names: tuple[str, ...] = NAMES) -> Path:
    """The output of a labelling: the later the picture, the less certain the answer."""
    infer = InferConfig()
    done = plan(list_inputs([folder], output), output, model_sha256="ab" * 32, infer=infer)
    names = sorted(path.name for path in folder.iterdir())
    rows = []
    for i, name in enumerate(names):
        share = 0.9 - 0.4 * i / len(names)
        classes = [i % 3, (i + 1) % 3]
        given = [class_names[k] for k in classes]
        rows.append(Prediction(name, name, classes, given, [share, 1 - share]))
    [shard] = done.shards
    write_part(done.part_path(shard), rows, model_sha256="ab" * 32)
    part, counts = str(done.part_path(shard)), {name: 1 for name in class_names}
    result = ShardResult(part, 0, len(rows), len(rows), [], counts, 0.0, 2.0, [5.0])
    write_json(done.shard_path(shard), result.to_dict())
    finish(done, infer=infer, model_sha256="ab" * 32)
    return output


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02d}.png").write_bytes(encode(draw(80, 60, seed=i)))
    shutil.copy(folder / "11.png", folder / "12.png")
    return labelled(folder, tmp_path / "out")


def items_of(page: Path) -> dict[str, Any]:
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values


def test_the_least_certain_come_first_and_copies_once(run: Path, tmp_path: Path) -> None:
    queue = write_queue(run, tmp_path / "queue", count=5, config=CONFIG)
    assert (queue.pictures, queue.by_reason) == (5, {"uncertain": 5})
    data = items_of(queue.path)
    paths = [item["path"] for item in data["items"]]
    assert paths == ["12.png", "10.png", "09.png", "08.png", "07.png"]  # 11 is 12 again
    with (tmp_path / "queue" / "queue.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row, item in zip(rows, data["items"], strict=True):
        content = (tmp_path / "queue" / row["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"] == item["sha256"]
        assert row["given"] == item["given"] and row["label"] == ""
    page = queue.path.read_text()
    assert "<i>cat</i>" not in page and "script-src 'unsafe-inline'" in page
    assert not read_corrections(tmp_path / "queue" / "queue.csv")  # nobody has decided yet

    again = write_queue(run, tmp_path / "queue", count=2, config=CONFIG)
    assert again.pictures == 2 and len(list((tmp_path / "queue" / "pictures").iterdir())) == 2


def test_pictures_that_are_far_out_come_in_turns_with_the_least_certain(
    run: Path, tmp_path: Path
) -> None:
    """The farthest may be very certain; where nothing was measured there are the least certain alone."""
    [counts] = (run / SHARDS_NAME).glob("part-*.json")
    nothing = np.zeros(13, np.float32)
    farthest = [("04.png", 5.0), ("01.png", 3.0), ("09.png", 1.5), ("00.png", 0.9)]
    seen = Observed(np.zeros((13, 2), np.float32), nothing, nothing, nothing, nothing, farthest)
    seen.save(counts.with_name(f"{counts.stem}{OBSERVED_SUFFIX}"))
    queue = write_queue(run, tmp_path / "queue", count=6, config=CONFIG)
    found = [(item["path"], item["reason"]) for item in items_of(queue.path)["items"]]
    assert found == [
        ("12.png", "uncertain"),
        ("04.png", "far"),
        ("01.png", "far"),  # 11 is 12 again
        ("10.png", "uncertain"),
        ("09.png", "far"),  # also the third by certainty
        ("08.png", "uncertain"),
    ]
    assert queue.by_reason == {"uncertain": 3, "far": 3}


def test_all_classes_of_the_model_may_be_chosen(run: Path, tmp_path: Path) -> None:
    """Also those that it gave to no picture."""
    names = (*NAMES, "newt")
    model = make_checkpoint(tmp_path / "m.ckpt", class_names=names, image_size=32)
    checkpoint = open_checkpoint(model)
    job = engine_job(checkpoint, "onnxruntime", None, images=13)
    (run / "jobs" / "shard-00000").mkdir(parents=True)
    write_job_file(job, run / "jobs" / "shard-00000")
    queue = write_queue(run, tmp_path / "queue", count=2, config=CONFIG)
    assert items_of(queue.path)["names"] == sorted(names)
    model.unlink()
    queue = write_queue(run, tmp_path / "queue", count=2, config=CONFIG)
    assert items_of(queue.path)["names"] == sorted(NAMES)


def test_what_was_decided_is_not_asked_again(run: Path, tmp_path: Path) -> None:
    first = write_queue(run, tmp_path / "first", count=3, config=CONFIG)
    items = items_of(first.path)["items"]
    rows = [f"{items[0]['sha256']},owl,label", f"{items[1]['sha256']},,leave out"]
    (tmp_path / "labels.csv").write_text("\n".join(["sha256,label,action", *rows]))
    decided = read_corrections(tmp_path / "labels.csv")
    second = write_queue(run, tmp_path / "second", count=2, config=CONFIG, decided=decided)
    assert [item["path"] for item in items_of(second.path)["items"]] == ["09.png", "08.png"]
    with (tmp_path / "labels.csv").open("a") as stream:
        for path in (tmp_path / "in").iterdir():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            if digest not in decided:
                stream.write(f"\n{digest},owl,label")
    decided = read_corrections(tmp_path / "labels.csv")
    with pytest.raises(DataError, match="is left that nobody has decided on"):
        write_queue(run, tmp_path / "third", count=2, config=CONFIG, decided=decided)


def test_what_is_no_run_and_what_is_no_queue(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is neither the output of a labelling"):
        write_queue(tmp_path / "in", tmp_path / "queue", count=5, config=CONFIG)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(OutputExists):
        write_queue(run, tmp_path / "full", count=5, config=CONFIG)
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(DataError, match=r"none of the pictures|has gone|does not exist|is gone"):
        write_queue(run, tmp_path / "other", count=5, config=CONFIG)


def test_suggestions_are_names_and_the_first_is_what_the_model_finds() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    features = rng.standard_normal((60, 6)) * 0.1
    features[np.arange(60), labels] += 3
    rows = [{"path": f"{i}.png", "features": list(f)} for i, f in enumerate(features)]
    wrong = labels.copy()
    wrong[[3, 25]] = [1, 2]
    found = suspicious(rows, wrong, ("a", "b", "c"))
    assert found.suspected == 2
    first = found.candidates[:2]
    assert {(c.path, c.given, c.suggestions[0][0]) for c in first} == {
        ("3.png", "b", "a"),
        ("25.png", "c", "b"),
    }
    assert all(c.is_labelled and c.reason == "label" for c in found.candidates)


@pytest.mark.slow
def test_the_page_in_a_browser(run: Path, tmp_path: Path) -> None:
    """Keys decide, the file that is saved stages; nothing is loaded from anywhere."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", how="apt-get install chromium")
    queue = write_queue(run, tmp_path / "queue", count=6, config=CONFIG)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(queue.path.resolve().as_uri())
        given = page.locator("#verdict").inner_text()
        assert given.endswith(items_of(queue.path)["items"][0]["given"])
        for key in ("Enter", "2", "x", "ArrowRight", "/"):
            page.keyboard.press(key)
        page.keyboard.type("new, class")
        page.keyboard.press("Enter")
        page.keyboard.press("x")
        page.keyboard.press("u")
        assert "4 decided" in page.locator("#count").inner_text()
        page.reload()
        assert "4 decided" in page.locator("#count").inner_text()
        with page.expect_download() as download:
            page.keyboard.press("s")
        download.value.save_as(tmp_path / "queue" / "labels.csv")
        browser.close()
    assert problems == []
    items = items_of(queue.path)["items"]
    found = read_corrections(tmp_path / "queue" / "labels.csv")
    assert found.labels == {
        items[0]["sha256"]: items[0]["given"],
        items[1]["sha256"]: items[1]["suggestions"][1][0],
        items[4]["sha256"]: "new, class",
    }
    assert found.left_out == {items[2]["sha256"]}
    assert all(path.is_file() for path in found.files.values())
    class_folders(tmp_path / "source", {"owl": 4, NAMES[1]: 4, NAMES[0]: 4}, width=30)
    data, _ = stage_dataset(tmp_path / "source", tmp_path / "data", corrections=found)
    assert "new, class" in data.class_names and sum(data.counts.values()) == 15


@pytest.mark.slow
def test_a_digit_means_the_class_where_classes_are_digits(run: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", how="apt-get install chromium")
    digits = labelled(tmp_path / "in", tmp_path / "digits", class_names=("0", "7", "4"))
    queue = write_queue(digits, tmp_path / "queue", count=4, config=CONFIG)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(queue.path.resolve().as_uri())
        for key in ("7", "1", "0"):  # there is no class 1
            page.keyboard.press(key)
        with page.expect_download() as download:
            page.keyboard.press("s")
        download.value.save_as(tmp_path / "labels.csv")
        browser.close()
    first, second = items_of(queue.path)["items"][:2]
    found = read_corrections(tmp_path / "labels.csv").labels
    assert found == {first["sha256"]: "7", second["sha256"]: "0"}
