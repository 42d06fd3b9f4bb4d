"""``effnet run NAME``: start a deployment's run on the server, and watch it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import yaml

from effnet_core.cli.terminal import console
from effnet_core.config.yaml_text import parse_yaml
from effnet_core.errors import ConfigError, EffnetError
from effnet_core.text import nearest
from flows.service.api import JSON, PAGE, Api, ApiError
from flows.service.recovery import is_final
from flows.service.server import ui_url

POLL_S = 1.0
AWAY_S = 300.0
"""Longest time that a watched run's server may not answer, such as in a restart."""
KEPT_LINES = 50
"""Newest lines of a log that are asked for again, since lines of several tasks cross."""


class RunFailed(EffnetError):
    """A deployment's run did not end as Completed."""


def start(api: Api, name: str, parameters: Sequence[str], *, watch: bool) -> None:
    """Start a run of a deployment.

    Args:
        api: server that knows the deployment.
        name: ``DEPLOYMENT`` or ``FLOW/DEPLOYMENT``.
        parameters: ``KEY=VALUE`` each; the value is read as YAML, unless the parameter is a text.
        watch: whether to show the run's log until it ends.

    Raises:
        ConfigError: the deployment or a parameter is unknown, or a value is not allowed.
        RunFailed: the watched run did not end as Completed.
    """
    deployment = find(api, name)
    values = dict(parse_parameter(deployment, text) for text in parameters)
    path = f"/deployments/{deployment['id']}/create_flow_run"
    run = api.post(path, {"parameters": values, "state": {"type": "SCHEDULED"}})
    place = f"{ui_url(api.url)}/runs/flow-run/{run['id']}"
    console.print(f"started {deployment['name']} as run {run['id']}: {place}", soft_wrap=True)
    if watch:
        _watch(api, run["id"])


def find(api: Api, name: str) -> JSON:
    """The deployment of a name.

    Raises:
        ConfigError: there is none, or several flows have one of that name.
    """
    flow, _, bare = name.rpartition("/")
    body: JSON = {"deployments": {"name": {"any_": [bare]}}}
    if flow:
        body["flows"] = {"name": {"any_": [flow]}}
    found: list[JSON] = api.post("/deployments/filter", body)
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{len(found)} flows have a deployment {bare!r}; give it as FLOW/{bare}")
    known = sorted(item["name"] for item in api.post("/deployments/filter"))
    raise ConfigError(
        f"deployment {name!r} is unknown{nearest(bare, known)} "
        f"(known: {', '.join(known) or 'none; run effnet up'})"
    )


def parse_parameter(deployment: JSON, text: str) -> tuple[str, Any]:
    """A parameter and its value, with the type that the flow's schema asks for.

    Args:
        deployment: as the server tells it.
        text: ``KEY=VALUE``; the value is read as YAML, unless the parameter is a text.

    Raises:
        ConfigError: it is not of that form, or the deployment has no such parameter.
    """
    key, equals, raw = text.partition("=")
    key = key.strip()
    schema = deployment["parameter_openapi_schema"].get("properties", {})
    if not equals:
        raise ConfigError(f"parameter {text!r} is not of the form KEY=VALUE, such as epochs=20")
    if key not in schema:
        raise ConfigError(
            f"deployment {deployment['name']!r} has no parameter {key!r}{nearest(key, schema)} "
            f"(it has {', '.join(schema)})"
        )
    kinds = {kind.get("type") for kind in (schema[key], *schema[key].get("anyOf", []))} - {None}
    if kinds == {"string"}:
        return key, raw
    try:
        value = parse_yaml(raw)
    except yaml.YAMLError:
        value = raw
    if "string" in kinds and isinstance(value, (int, float)) and not kinds & {"integer", "number"}:
        value = raw
    if "array" in kinds and isinstance(value, str):
        value = [value]
    return key, value


def _watch(api: Api, flow_run_id: str) -> None:
    """Show states and log lines until the run has ended for good; a server may be away meanwhile."""
    log, state, run = _Log(api, flow_run_id), "", None
    answered = time.monotonic()
    while run is None or not is_final(run):
        time.sleep(POLL_S if run else 0)
        try:
            run = api.run(flow_run_id)
            if run["state_name"] != state:
                state = run["state_name"]
                console.print(f"{state} {run['name']}", soft_wrap=True)
            log.show()
            answered = time.monotonic()
        except ApiError as error:
            if time.monotonic() - answered > AWAY_S:
                raise
            console.print(f"{error}; the run continues meanwhile", soft_wrap=True, markup=False)
            time.sleep(POLL_S)
    time.sleep(POLL_S)  # the last lines are sent after the state
    log.show()
    if run["state_type"] != "COMPLETED":
        message = (run["state"]["message"] or "").strip()
        raise RunFailed(f"run {run['name']} ended as {run['state_name']}: {message}")


class _Log:
    """Prints the lines of a run and of the runs inside it, each once."""

    def __init__(self, api: Api, flow_run_id: str) -> None:
        self.api, self.flow_run_id = api, flow_run_id
        self.shown: set[str] = set()
        self.since = "1970-01-01T00:00:00Z"

    def show(self) -> None:
        """Print what has come since the last call; a run's lines may come a little out of order."""
        body = {
            "logs": {
                "flow_run_id": {"any_": [self.flow_run_id, *self._inside(self.flow_run_id)]},
                "timestamp": {"after_": self.since},
            },
            "sort": "TIMESTAMP_ASC",
            "limit": PAGE,
        }
        lines = self.api.post("/logs/filter", body)
        for line in lines:
            if line["id"] not in self.shown:
                self.shown.add(line["id"])
                text = f"  {str(line['timestamp'])[11:19]}  {line['message']}"
                console.print(text, soft_wrap=True, markup=False)
        if len(lines) > KEPT_LINES:
            self.since = str(lines[-KEPT_LINES]["timestamp"])

    def _inside(self, *runs: str) -> list[str]:
        """The runs inside of runs, and those inside of them."""
        inside = {"parent_flow_run_id": {"any_": list(runs)}}
        found = [str(run["id"]) for run in self.api.runs(flow_runs=inside)]
        return [*found, *self._inside(*found)] if found else []
