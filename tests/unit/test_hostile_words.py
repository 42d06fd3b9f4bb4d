"""Names that strangers gave to files and classes: no terminal, log, spreadsheet or page obeys them."""

from __future__ import annotations

import csv
import io
import logging
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.cli.terminal import console
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.infer.parts import as_cell, iter_rows, of_cell, write_part
from effnet_core.infer.pipeline import Prediction
from effnet_core.results import EvalResult
from effnet_core.results.confusion import Confusion
from effnet_core.text import markdown_code, markdown_text, visible, visible_lines
from tasks.dashboard import cards
from tests.support.images import class_folders, draw, encode, source_with_splits

TITLE = "\x1b]0;PWNED\x07"
NAMES = [
    TITLE,
    "a\nINFO forged line",
    "\x1b[2J",
    "\u202egpj",
    "a\r\nb",
    "\x9b31m",
    "\x00",
    "\udcff",
]
HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udcff]")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_hidden_is_shown(name: str) -> None:
    assert not HIDDEN.search(visible(name))
    assert "\n" not in visible(name)
    assert visible(visible(name)) == visible(name)
    assert visible_lines(f"{name}\nx").endswith("\nx")
    visible(name).encode()


def test_what_people_write_stays() -> None:
    text = "Ärger 猫 🐈 `x` [red] C:\\new"
    assert visible(text) == text


@pytest.mark.parametrize("name", NAMES)
def test_errors_and_events_are_one_line(
    name: str, events: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    assert str(DataError(f"image {name} cannot be read")) == f"image {visible(name)} cannot be read"
    with caplog.at_level(logging.INFO, "effnet_core"):
        emit(Event("stage", f"look: {name}"))
    assert caplog.messages == [f"look: {visible(name)}"] == [event.message for event in events]


def test_strings_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are no markup, colons no emoji; also in the cells of a table."""
    from rich.table import Table

    table = Table()
    table.add_column("name")
    table.add_row(f"[bold]x[/bold] [/] :cat: {TITLE}")
    with console.capture() as said:
        console.print("run[1] [red]x[/red] [/bold] :cat:", TITLE, soft_wrap=True)
        console.print(table)
    assert "run[1] [red]x[/red] [/bold] :cat: \\x1b]0;PWNED\\x07" in said.get()
    assert "[bold]x[/bold] [/] :cat: \\x1b]0;PWNED" in said.get()


@pytest.mark.costly
def test_an_output_with_square_brackets(tmp_path: Path) -> None:
    source = source_with_splits(tmp_path / "source", train=2, val=1)
    out = tmp_path / "out[/bold]"
    result = CliRunner().invoke(app, ["stage", str(source), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert str(out) in result.output.replace("\n", "")


# --- spreadsheets --------------------------------------------------------------------------------

FORMULAS = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\tx",
    "\rx",
    "'=x",
    "''+",
    "plain",
    "'quoted'",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text: str) -> None:
    assert as_cell(text)[:1] not in "=+-@\t\r"
    assert of_cell(as_cell(text)) == text


def test_a_csv_of_predictions_goes_through_a_spreadsheet(tmp_path: Path) -> None:
    rows = [
        Prediction(f"{number:016x}", name, [0], ["=x"], [1.0])
        for number, name in enumerate(FORMULAS)
    ]
    path = tmp_path / "predictions" / "part-0.csv"
    path.parent.mkdir()
    write_part(path, rows, model_sha256="x")
    for row in csv.DictReader(io.StringIO(path.read_text(), newline="")):
        assert not [cell for cell in row.values() if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert [row["path"] for row in iter_rows(tmp_path)] == FORMULAS


# --- pages ---------------------------------------------------------------------------------------

PICTURE = "![x](http://evil.example/p.png)"
MARKUP = [
    PICTURE,
    "[x](javascript:alert(1))",
    "<img src=http://evil.example>",
    "`x` | y",
    "&lt;b>",
    "# x",
]


@pytest.mark.parametrize("name", MARKUP)
def test_names_are_no_markdown(name: str) -> None:
    for text in (markdown_text(name), markdown_code(f"{name}`")):
        plain = re.sub(r"(`+).*?\1", "", text)
        assert not re.search(r"(?<!\\)[\[\]<]|(?<!\\)!\[", plain), text
        assert not re.search(r"(?<!\\)\|", text)
    assert "\n" not in markdown_text("a\n# b")


def test_cards_show_no_picture_of_a_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(cards, "create_markdown_artifact", lambda text, **_: shown.append(text))
    names = [PICTURE.replace("/", "\u2215"), PICTURE]
    result = EvalResult(
        seen=2,
        correct1=1,
        correct5=2,
        loss=1.0,
        confusion=Confusion.from_dense([[1, 0], [1, 0]]),
        class_names=names,
    )
    cards.show_evaluation(result, f"https://x/y?{PICTURE}`")
    source = class_folders(tmp_path / "s", {names[0]: 4, "b": 4}, width=20, height=20)
    stage_dataset(source, tmp_path / "out")
    shown.append((tmp_path / "out" / "data_card.md").read_text())
    for text in shown:
        ours = re.sub(r"!\[[a-z ]*\]\(data:image/png;base64,[\w+/=]*\)", "", text)
        left = re.search(r"(?<!\\)!\[|(?<!\\)\]\(", re.sub(r"(`+).*?\1", "", ours))
        assert left is None, ours


@pytest.mark.costly
def test_a_broken_picture_says_no_more_than_its_name(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "s", {"a": 6, "b": 6}, width=20, height=20)
    shutil.copy(source / "a" / "000.jpg", source / "a" / f"{TITLE}ok.jpg")
    (source / "b" / f"{TITLE}bad.jpg").write_bytes(encode(draw(20, 20), "jpeg")[:50])
    result = CliRunner().invoke(app, ["stage", str(source), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
