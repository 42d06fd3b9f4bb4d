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
from effnet_core.infer.plan import plan
from effnet_core.reports.review import suspicious, write_queue
from effnet_core.results import ShardResult
from effnet_core.system.files import write_json
from tests.support.images import class_folders, draw, encode
from tests.support.services import missing

CONFIG = RunConfig()
NAMES = ("<i>cat</i>", 'dog, "big"', "owl")


def labelled(folder: Path, output: Path) -> Path:
    """The output of a labelling: the later the picture, the less certain the answer."""
    infer = InferConfig()
    done = plan(list_inputs([folder], output), output, model_sha256="ab" * 32, infer=infer)
    names = sorted(path.name for path in folder.iterdir())
    rows = []
    for i, name in enumerate(names):
        share = 0.9 - 0.4 * i / len(names)
        classes = [i % 3, (i + 1) % 3]
        given = [NAMES[k] for k in classes]
        rows.append(Prediction(name, name, classes, given, [share, 1 - share]))
    [shard] = done.shards
    write_part(done.part_path(shard), rows, model_sha256="ab" * 32)
    part, counts = str(done.part_path(shard)), {name: 1 for name in NAMES}
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
