"""The ``effnet`` command: quick to answer, complete, documented."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from effnet_core import __version__
from effnet_core.cli.tables import family_markdown, settings_markdown
from effnet_core.config.load import leaf_keys
from effnet_core.config.recipes import recipe_names
from effnet_core.family.variants import VARIANTS
from flows.cli import app

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = {
    *("models", "recipes", "settings", "stage", "train", "evaluate", "predict", "export", "bench"),
    *(
        "publish",
        "quantize",
        "demo",
        "dashboard",
        "doctor",
        "up",
        "pipeline",
        "down",
        "env",
        "status",
        "deploy",
        "watch",
        "run",
        "schedule",
    ),
    *("verify-family", "copy", "weights list", "weights import", "weights convert"),
    *("store list", "store show", "store fetch", "store promote", "store rollback"),
    *("store verify", "store gc"),
    *("runs", "leaderboard", "compare", "review"),
}


def names(group: TyperGroup) -> set[str]:
    """The commands of a group and of the groups in it."""
    found = set()
    for name, command in group.commands.items():
        inner = names(command) if isinstance(command, TyperGroup) else ()
        found |= {f"{name} {leaf}" for leaf in inner} or {name}
    return found


def effnet(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    return result.output


def test_these_are_the_commands() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    assert names(group) == COMMANDS
    text = effnet("--help")
    assert all(name in text for name in group.commands)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    text = effnet(*command.split(), "--help")
    assert f"effnet {command}" in text or f"root {command}" in text
    assert len(text.splitlines()) > 5


def test_nothing_heavy_is_loaded_before_a_command_is_chosen() -> None:
    heavy = ("effnet_core.config.schema", "boto3", "rich.live")
    code = f"import sys, effnet_core.cli.app; print([n for n in {heavy!r} if n in sys.modules])"
    argv = [sys.executable, "-c", code]
    answer = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["copy", "a", "b"], 2), (["copy", "a", "s3://user@b/c"], 2)],
)
def test_the_exit_code_outlives_the_quick_end(arguments: list[str], code: int) -> None:
    argv = [sys.executable, "-m", "effnet_core", *arguments]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert (ended.stdout if code == 0 else ended.stderr).startswith("effnet")


def test_version() -> None:
    assert effnet("--version").strip() == f"effnet-flows {__version__}"


def test_models_lists_the_family() -> None:
    text = effnet("models")
    for variant in VARIANTS.values():
        assert (variant.name in text) is not variant.hidden
    assert "5,288,548" in text
    assert "efficientnet_tiny" in effnet("models", "--all")


def test_recipes_and_settings_are_listed() -> None:
    text = effnet("recipes")
    for name in recipe_names():
        assert name in text
    text = effnet("settings")
    for key in leaf_keys():
        assert key in text


def test_the_settings_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == settings_markdown(), "run: make docs"


def test_the_page_of_models_is_current() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page == family_markdown(), "run: make docs"


def test_the_family_fits_eighty_columns() -> None:
    result = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"})
    assert "TF top-1" in result.output
    assert "…" not in result.output


def test_help_imports_nothing_heavy() -> None:
    """What makes it answer at once; the seconds themselves depend on the machine."""
    code = (
        "import sys; sys.argv = ['effnet', '--help']\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'mindspore', 'prefect', 'pyarrow', 'matplotlib', 'boto3', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
