"""Which labelled images a report shows, and the report of a batch inference."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from effnet_core.config.schema import InferConfig, StorageConfig
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.output import finish
from effnet_core.infer.parts import write_part
from effnet_core.infer.pipeline import Prediction
from effnet_core.infer.plan import InferencePlan, plan
from effnet_core.infer.readers import FolderReader
from effnet_core.render import plots
from effnet_core.reports import gallery
from effnet_core.reports.gallery import Selection
from effnet_core.reports.predictions import PredictionsReport, write_predictions_report
from effnet_core.results import ShardResult
from effnet_core.system.files import write_json
from effnet_core.text import markdown_code, markdown_text, visible
from tests.support.images import draw, encode
from tests.unit.reports.test_pipeline_report import Page

NAMES = ("<i>cat</i>", "dog|wolf", "bird")


def row(path: str, label: int, prob: float) -> dict[str, Any]:
    names = [f"class_{label}", "other"]
    return {
        "path": path,
        "class_ids": [label, -1],
        "class_names": names,
        "probs": [prob, 1 - prob],
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [row(f"{index:04d}.png", rng.randrange(5), rng.random()) for index in range(500)]


@pytest.fixture
def source(tmp_path: Path) -> FolderReader:
    return FolderReader(tmp_path)  # the pictures themselves do not matter


def test_the_choice_does_not_depend_on_the_order_of_the_rows(
    rows: list[dict[str, Any]], source: FolderReader
) -> None:
    first = Selection.of(rows)
    random.Random(1).shuffle(rows)
    second = Selection.of(rows)
    assert first.groups(source) == second.groups(source)
    assert first.uncertain(source) == second.uncertain(source)


def test_least_certain_are_the_lowest_of_all(
    rows: list[dict[str, Any]], source: FolderReader
) -> None:
    wanted = sorted(row["probs"][0] for row in rows)[: gallery.MAX_UNCERTAIN]
    found = [picture.answers[0][1] for picture in Selection.of(rows).uncertain(source)]
    assert found == wanted


def test_samples_are_of_their_class_and_spread_over_it(
    rows: list[dict[str, Any]], source: FolderReader
) -> None:
    of_path = {row["path"]: row for row in rows}
    groups, _ = Selection.of(rows).groups(source)
    assert sum(group.count for group in groups) == len(rows)
    for label, group in enumerate(groups):
        assert group.name == f"class_{label}"
        assert len(group.pictures) == gallery.MAX_PICTURES_PER_CLASS
        paths = [picture.path for picture in group.pictures]
        assert all(of_path[path]["class_ids"][0] == label for path in paths)
        own = [row["path"] for row in rows if row["class_ids"][0] == label]
        assert set(paths) != set(own[: len(paths)])  # not merely the first ones


def test_what_is_held_does_not_grow_with_the_rows() -> None:
    selection = Selection()
    for index in range(20_000):
        selection.add(row(f"{index}.png", index % 3, (index * 7919 % 1000) / 1000))
    held = [*selection._uncertain, *(item for kept in selection._samples.values() for item in kept)]
    assert len(held) <= gallery.MAX_UNCERTAIN + 3 * gallery.MAX_PICTURES_PER_CLASS
    assert selection.labelled == 20_000
    assert selection.certainty.sum() == 20_000


def test_a_certain_answer_counts_in_the_last_bin() -> None:
    selection = Selection.of([row("a", 0, 1.0), row("b", 0, 0.0)])
    assert selection.certainty[-1] == 1
    assert selection.certainty[0] == 1


# --- the report of a batch inference ---------------------------------------------------------------


def label(
    folder: Path, output: Path, form: str = "parquet"
) -> tuple[InferencePlan, dict[str, Any]]:
    """A finished run over a folder: images get the classes in turn, other files are set aside."""
    infer = InferConfig(shard_images=4, max_error_share=1.0, format=form)  # type: ignore[arg-type]
    done = plan(list_inputs([folder], output), output, model_sha256="ab" * 32, infer=infer)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    for shard in done.shards:
        paths = names[shard.start : shard.stop]
        good = [path for path in paths if path.endswith(".png")]
        answers = [
            Prediction(p, p, [i % 3, (i + 1) % 3], [NAMES[i % 3], NAMES[(i + 1) % 3]], [0.45, 0.3])
            for i, p in enumerate(good)
        ]
        bad = [{"path": path, "reason": "truncated"} for path in paths if path not in good]
        write_part(done.part_path(shard), answers, model_sha256="ab" * 32)
        counts = {NAMES[0]: len(answers)} if answers else {}
        part = str(done.part_path(shard))
        result = ShardResult(
            part, shard.start, shard.stop, len(answers), bad, counts, 0.0, 2.0, [5.0]
        )
        write_json(done.shard_path(shard), result.to_dict())
    return done, finish(done, infer=infer, model_sha256="ab" * 32)


def report(done: InferencePlan, summary: dict[str, Any]) -> PredictionsReport:
    return write_predictions_report(
        done, summary, weights="store:v7", storage=StorageConfig(root="s")
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plots, "DPI", 50)
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(9):
        (folder / f"{index}.png").write_bytes(encode(draw(seed=index)))
    (folder / "cut.jpg").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_the_report_of_a_run_shows_what_it_found(folder: Path, tmp_path: Path, form: str) -> None:
    found = report(*label(folder, tmp_path / "out", form))
    assert found.path == str(tmp_path / "out" / "report.html")
    page = Page(Path(found.path))
    assert "9 images labelled" in page.text
    assert "store:v7" in page.text and "abababababab" in page.text
    assert "1 file could not be labelled" in page.text and "cut.jpg" in page.text
    assert "Uncertain 100.0%" in page.text
    assert len(page.thumbnails()) == 9 + 9  # by class, and the least certain
    assert "<i>cat</i>" in page.text  # as text, not as markup
    assert not page.find("i")


def test_the_card_for_the_dashboard_has_pictures_in_a_table(folder: Path, tmp_path: Path) -> None:
    card = report(*label(folder, tmp_path / "out")).card
    assert card.count("](data:image/webp;base64,") == 3 + 9
    assert "dog\\|wolf 45%" in card
    assert "&lt;i>cat&lt;/i> 45%" in card
    widths = {line.count("|") - line.count("\\|") for line in card.splitlines() if line[:1] == "|"}
    assert widths <= {4, 7}  # rows of three and of six pictures


def test_a_run_without_an_answer_has_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "b.jpg").write_bytes(b"x")
    found = report(*label(folder, tmp_path / "out"))
    page = Page(Path(found.path))
    assert "0 images labelled" in page.text
    assert "No image was labelled." in page.text
    assert "of 2 files" in page.text


def test_pictures_that_are_gone_do_not_cost_the_report(folder: Path, tmp_path: Path) -> None:
    run = label(folder, tmp_path / "out")
    for path in folder.glob("*.png"):
        path.unlink()
    found = report(*run)
    assert len(Page(Path(found.path)).find("div", "placeholder")) == 18
    assert "no picture" in found.card


def test_markdown_text_is_only_text() -> None:
    assert markdown_text("a|b\n*c* <d> [e](f) \udcff") == (r"a\|b \*c\* &lt;d> \[e\]\(f\) \\udcff")
    assert markdown_text("![x](http://y) &#60;b&#62;") == (
        r"\!\[x\]\(http://y\) &amp;\#60;b&amp;\#62;"
    )
    assert markdown_text("\x1b[2Jcat \u202egnp.exe") == r"\\x1b\[2Jcat \\u202egnp.exe"
    assert markdown_code("a`b|c\nd") == r"`a'b\|c\nd`"


def test_a_text_of_others_is_one_line_without_power() -> None:
    assert visible("a\nINFO forged\r\x1b]0;t\x07\x9b2J\u2028\u202e") == (
        r"a\nINFO forged\r\x1b]0;t\x07\x9b2J\u2028\u202e"
    )
    for name in ("Grüße, 猫　だ 🐈‍⬛", "می‌خواهم", "a b\u00a0c"):
        assert visible(name) == name
