"""Imports run one way, and importing settings loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import effnet_core

ROOT = Path(effnet_core.__file__).parent.parent


def fresh(code: str) -> list[str]:
    """The lines that ``code`` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[:-1]


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    "module", ["effnet_core", "effnet_core.config.schema", "effnet_core.api", "effnet_core.worker"]
)
def test_a_parent_loads_neither_mindspore_nor_prefect(module: str) -> None:
    heavy = ("mindspore", "prefect")
    code = f"import sys, {module}; print(sorted(set({heavy!r}) & set(sys.modules)))"
    assert fresh(code) == ["[]"]


def test_the_public_names_are_exact() -> None:
    code = (
        "import effnet_core as e; print(sorted(e.__all__)); "
        "print(sorted(n for n in vars(e) if not n.startswith('_')))"
    )
    assert fresh(code) == ["['__version__']", "[]"]


def test_the_version_is_the_packages() -> None:
    import importlib.metadata

    assert effnet_core.__version__ == importlib.metadata.version("effnet-flows")


@pytest.mark.parametrize(
    "folder", ["effnet_core", "effnet_core/data", "effnet_core/model", "effnet_core/train"]
)
def test_every_module_says_what_it_is_for(folder: str) -> None:
    for path in sorted((ROOT / folder).glob("*.py")):
        assert path.read_text().startswith(('"""', 'r"""', "#")), path
