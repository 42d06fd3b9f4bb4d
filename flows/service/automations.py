"""Automations of a server, from files in ``deployments/automations``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from effnet_core.config.yaml_text import parse_yaml
from effnet_core.errors import ConfigError
from flows.service.api import JSON, Api
from flows.service.environments import DEPLOYMENTS

FOLDER = DEPLOYMENTS.parent / "automations"
BLOCK = "block"
"""Key of an action that names a block as ``TYPE/NAME``, where Prefect wants an id."""
DEPLOYMENT = "deployment"
"""Likewise a deployment as ``FLOW/NAME``."""


def bring_automations(api: Api, path: Path) -> list[str]:
    """Make the automations of a file, or bring those of the same names up to date.

    Args:
        api: their server.
        path: a YAML file as ``prefect automation create`` takes it, except that actions name blocks and
            deployments; or the name of one in ``deployments/automations``.

    Returns:
        Their names.

    Raises:
        ConfigError: the file is not readable, or a block or deployment is not there, or the server refuses.
    """
    wanted = [_with_block_ids(api, item) for item in _read(path)]
    there = {item["name"]: item["id"] for item in api.post("/automations/filter")}
    for item in wanted:
        if item["name"] in there:
            api.put(f"/automations/{there[item['name']]}", item)
        else:
            api.post("/automations/", item)
    return [str(item["name"]) for item in wanted]


def require_usable(api: Api, path: Path) -> None:
    """Refuse a file of automations before anything is deployed for it; deployments may still be to come.

    Raises:
        ConfigError: the file is not readable, or a block is not there.
    """
    for item in _read(path):
        for action in item["actions"]:
            _with_block_id(api, action)


def _read(path: Path) -> list[JSON]:
    ours = FOLDER / f"{path}.yaml"
    path = ours if ours.is_file() and not path.exists() else path
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
        found: list[JSON] = content["automations"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as cause:
        text = " ".join(str(cause).split())
        raise ConfigError(
            f"{path} is not a file of automations ({text}); see those in {FOLDER}"
        ) from None
    return found


def _with_block_ids(api: Api, automation: JSON) -> JSON:
    actions = [
        _with_deployment_id(api, _with_block_id(api, action)) for action in automation["actions"]
    ]
    return {**automation, "actions": actions}


def _with_block_id(api: Api, action: dict[str, Any]) -> dict[str, Any]:
    if BLOCK not in action:
        return action
    kind, _, name = str(action[BLOCK]).partition("/")
    body = {
        "block_types": {"slug": {"any_": [kind]}},
        "block_documents": {"name": {"any_": [name]}, "is_anonymous": {"eq_": False}},
    }
    found = api.post("/block_documents/filter", body)
    if not found:
        raise ConfigError(
            f"the server has no block {name!r} of type {kind!r}; make it first, on the dashboard's page "
            "Blocks or as the file of automations says"
        )
    rest = {key: value for key, value in action.items() if key != BLOCK}
    return {**rest, "block_document_id": found[0]["id"]}


def _with_deployment_id(api: Api, action: dict[str, Any]) -> dict[str, Any]:
    if DEPLOYMENT not in action:
        return action
    name = str(action[DEPLOYMENT])
    flow, _, deployment = name.partition("/")
    found = api.post(
        "/deployments/filter",
        {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [deployment]}}},
    )
    if not found:
        raise ConfigError(f"the server has no deployment {name!r}; bring it first: effnet deploy")
    rest = {key: value for key, value in action.items() if key != DEPLOYMENT}
    return {**rest, "source": "selected", "deployment_id": found[0]["id"]}
