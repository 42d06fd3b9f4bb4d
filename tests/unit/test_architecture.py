"""Importing settings loads nothing heavy; that imports run one way is what `make lint` checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import effnet_core

ROOT = Path(effnet_core.__file__).parent.parent


HEAVY = {"mindspore", "prefect", "matplotlib", "pyarrow.compute"}


def fresh(code: str) -> list[str]:
    """The lines that ``code`` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[:-1]


def test_a_parent_loads_neither_mindspore_nor_prefect_nor_what_draws() -> None:
    modules = "effnet_core, effnet_core.config.schema, effnet_core.api, effnet_core.worker.rank"
    code = f"import sys, {modules}; print(sorted({HEAVY} & set(sys.modules)))"
    assert fresh(code) == ["[]"]


def test_the_version_is_the_packages() -> None:
    import importlib.metadata

    assert effnet_core.__version__ == importlib.metadata.version("effnet-flows")


@pytest.mark.parametrize("package", ["effnet_core", "tasks", "flows"])
def test_every_module_says_what_it_is_for(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        assert path.read_text().startswith(('"""', 'r"""', "#")), path
