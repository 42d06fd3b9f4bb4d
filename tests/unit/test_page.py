"""``docs/page.md`` names tests that are there, and commands that answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from effnet_core.config.recipes import recipe_names
from effnet_core.mindvision.__main__ import parser
from flows.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "`tests/" in line]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_line_names_a_test_that_is_there(row: str) -> None:
    found = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row)
    assert found
    for path, name in found:
        content = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name or 'test_'}" in content


def test_every_command_is_one() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    commands = set(re.findall(r"`effnet ([a-z-]+)", PAGE))
    assert {"models", "evaluate", "verify-family", "recipes", "weights", "publish"} <= commands
    assert commands <= set(group.commands)
    assert set(re.findall(r"effnet recipes (\w+)", PAGE)) <= set(recipe_names())
    for command in set(re.findall(r"`mv (\w+)", PAGE)):
        with pytest.raises(SystemExit) as stop:
            parser().parse_args([command, "--help"])
        assert stop.value.code == 0


def test_every_line_of_the_page_is_here() -> None:
    wanted = (
        *("architecture", "line chart", "table of pretrained", "verifies the accuracy", "Config"),
        *("Download", "21 parameters", "mpirun -n 8", "Epoch:[", "train_config.py", "eval.py"),
        *("Top_1_Accuracy", "eval_config.py", "infer.py", "tiger cat"),
    )
    table = "\n".join(ROWS)
    assert [words for words in wanted if words not in table] == []
