"""Where the flows run: ``deployments/environments/NAME.yaml``, apart from recipes.

An environment says which work pool, how many jobs may use the devices at once, and settings of places
and devices (``storage``, ``runtime``). It has no hyper-parameters: a model must not depend on where it
was trained. Settings lie between recipe and overrides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from effnet_core.config.load import load_config, merged
from effnet_core.config.schema import RunConfig, RuntimeConfig, StorageConfig
from effnet_core.config.yaml_text import parse_yaml
from effnet_core.errors import ConfigError
from effnet_core.system import machine
from effnet_core.text import nearest

VARIABLE = "EFFNET_ENVIRONMENT"
"""Names the environment of a flow run; deployments set it."""
DEFAULT = "local"
ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments" / "prefect.yaml"
FOLDER = ROOT / "deployments" / "environments"
SECTIONS = {"storage": StorageConfig, "runtime": RuntimeConfig}


class Environment(BaseModel):
    """One place to run flows in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: str
    """Work pool that takes the runs."""
    pool_type: str = "process"
    """Kind of work pool: process, docker or kubernetes."""
    job_template: str | None = None
    """JSON file in deployments/ with what each run of a new pool gets; Prefect's own by default."""
    devices: int | None = Field(None, ge=1)
    """Devices that jobs share: each takes one for each of its processes, or all where there are not as
    many. The GPUs or Ascend devices of the machine that deploys, 1 without any, when absent."""
    runs: int = Field(8, ge=1)
    """Flow runs that one worker has at work at once; further ones wait."""
    working_dir: str | None = None
    """Folder that relative paths of runs start from; that of the deployment by default."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings by section; only storage and runtime."""

    @property
    def slots(self) -> int:
        """Limit of jobs on devices, in devices."""
        return self.devices or max(1, *(len(machine.devices(kind)) for kind in machine.VISIBLE))

    @property
    def slot(self) -> str:
        """Name of the global concurrency limit that jobs on devices take."""
        return f"devices-{self.pool}"


def names() -> list[str]:
    """The environments there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def read_environment(name: str) -> Environment:
    """An environment by its name.

    Raises:
        ConfigError: it is unknown, or holds something else than it may.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        raise ConfigError(
            f"environment {name!r} is unknown{nearest(name, names())} (known: {', '.join(names())}, "
            f"in {FOLDER})"
        )
    try:
        found = Environment.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as cause:
        text = " ".join(str(cause).split())
        raise ConfigError(f"environment file {path} is not valid: {text}") from None
    for section in found.settings:
        if section not in SECTIONS:
            raise ConfigError(
                f"environment file {path} sets {section!r}; an environment holds places and devices "
                f"only ({', '.join(SECTIONS)}), the rest belongs into a recipe"
            )
    load_config(None, values=found.settings)
    return found


def flow_config(
    recipe: str | Path | None,
    overrides: list[str] | None = None,
    *,
    form: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Settings of a flow run: recipe, then this run's environment, then its form, then overrides.

    Args:
        recipe: name or path.
        overrides: ``section.key=value`` each; they win.
        form: fields of the form, as ``form_values`` gives them.

    Raises:
        ConfigError: as ``load_config``, or the environment is unknown.
    """
    name = os.environ.get(VARIABLE)
    values = read_environment(name).settings if name else {}
    return load_config(recipe, overrides or [], values=merged(values, form or {}))
