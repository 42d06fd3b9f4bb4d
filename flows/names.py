"""Names of flow runs that say what they do, however long the paths are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from prefect.runtime import flow_run


def named(prefix: str, parameter: str) -> Callable[[], str]:
    """A ``flow_run_name`` such as ``train-digits``: the prefix and a parameter's last path segment."""

    def name() -> str:
        value = str(flow_run.get_parameters().get(parameter, ""))
        return f"{prefix}-{PurePath(value).name or 'run'}"

    return name
