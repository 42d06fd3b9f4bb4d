"""Bring a server's work pool, device slots and deployments to what the repository says.

What people changed on the dashboard stays (``merging.py``). What was deployed last is noted in a variable
of the server, so this works from any host; a deployment that is as it should be is not deployed again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from effnet_core.cli.terminal import console
from effnet_core.errors import ConfigError, EffnetError
from effnet_core.system.locks import scratch_folder
from flows.service.api import Api
from flows.service.environments import (
    DEPLOYMENTS,
    ROOT,
    VARIABLE,
    Environment,
    read_environment,
)
from flows.service.merging import (
    NOWHERE,
    Key,
    Settings,
    into_file,
    is_unnamed,
    merge,
    of_file,
    of_server,
    templated,
)
from flows.service.server import API_URL, AUTH_VARIABLE, SETTINGS, own_state_dir, python_path

# A worker asks for work every two seconds instead of ten, so a run starts sooner. Heartbeats let the
# automation deployments/automations/heartbeat.yaml notice runs that were lost with their machine. Leases of
# slots are kept on the disk: in memory, Prefect's default, a restarted server forgets who holds a slot
# and it is never free again.
SERVICE_SETTINGS = {
    **SETTINGS,
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}

PLACEHOLDER = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")
RECORD_VARIABLE = "effnet_deployed"
"""Prefect variable that holds what was deployed last."""
REST: Key = ("rest",)
"""Digest in that record of what a deployment is made from beside its settings."""
PATIENCE_S = 600.0
"""How long a command of Prefect may take: a server that hangs would keep it waiting for ever."""


class ServiceError(EffnetError):
    """The service did not start, or is not there."""


def deploy(
    api: Api, *, environment: str, working_dir: Path | None = None, reset: bool = False
) -> None:
    """Bring work pool, device slots and deployments to what the repository says.

    Args:
        api: server to deploy to.
        environment: a name in ``deployments/environments``.
        working_dir: where relative paths of runs start, unless the environment says; by default the current
            folder.
        reset: whether what people changed on the dashboard goes back to what the repository says.

    Raises:
        ConfigError: the environment is unknown, or there is no deployment file.
        ServiceError: Prefect refused a deployment.
    """
    place = read_environment(environment)
    if not DEPLOYMENTS.exists():
        raise ConfigError(f"{DEPLOYMENTS} does not exist; install effnet-flows again")
    _create_pool(api, place)
    _bring_slots(api, place, reset=reset)
    variables = {
        VARIABLE: environment,
        "EFFNET_POOL": place.pool,
        "EFFNET_SLOT": place.slot,
        "EFFNET_WORKING_DIR": place.working_dir or str(working_dir or Path.cwd()),
    }
    file = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
    items, ours = _filled_in(file["deployments"], variables), {}
    there = {_identity(item): item for item in api.post("/deployments/filter")}
    last = {} if reset else read_record(api)
    code = _digest_of_code()
    wanted: list[dict[str, Any]] = []
    merged: dict[tuple[str, str], Settings] = {}
    for raw, item in zip(file["deployments"], items, strict=True):
        name, found, settings = item["name"], there.get(_identity(item)), of_file(item)
        rest = _digest([code, into_file(item, {}), _filled_in(file.get("pull"), variables)])
        ours[name] = {**settings, REST: rest}
        if found is not None and not reset:
            theirs, base = of_server(found), last.get(name, {})
            for key in templated(of_file(raw)):  # the environment's, whatever was there before
                theirs[key] = base[key] = settings.get(key, NOWHERE)
            settings, conflicts = merge(ours=settings, theirs=theirs, base=base)
            for conflict in conflicts:
                console.print(f"{name}: {conflict}", soft_wrap=True, markup=False)
            if base.get(REST) == rest and _is_as_deployed(found, item, settings):
                continue
        merged[_identity(item)] = settings
        wanted.append(into_file(item, settings))
    if wanted:
        _deploy_file(api, {**file, "deployments": wanted}, variables)
        _finish(api, merged)
    write_record(api, ours)


def _is_as_deployed(found: Mapping[str, Any], item: Mapping[str, Any], wanted: Settings) -> bool:
    """Whether the server's deployment has these settings, in the file's work pool and by its entrypoint."""
    pool = (item.get("work_pool") or {}).get("name")
    places = found["work_pool_name"], found["entrypoint"]
    return of_server(found) == wanted and places == (pool, item["entrypoint"])


def _digest_of_code() -> str:
    """A digest of our sources and Prefect's version, which make the form of a deployment."""
    paths = (path for name in ("flows", "effnet_core") for path in (ROOT / name).rglob("*.py"))
    return _digest([version("prefect"), *(path.read_text("utf-8") for path in sorted(paths))])


def _digest(content: Any) -> str:
    """Short, since the record has room for 5,000 characters."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


def _identity(item: Mapping[str, Any]) -> tuple[str, str]:
    """Name and function of a deployment; another project's may have the same name."""
    return item["name"], re.split("[.:]", str(item["entrypoint"]))[-1]


def _bring_slots(api: Api, place: Environment, *, reset: bool) -> None:
    """The environment's slots for devices; their number is left as people set it."""
    limit = {"limit": place.slots, "active": True}
    if place.slot not in {found["name"] for found in api.limits()}:
        api.post("/v2/concurrency_limits/", {"name": place.slot, **limit})
    elif reset:
        api.patch(f"/v2/concurrency_limits/{place.slot}", limit)


def _filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """A part of the file with ``{{ $NAME }}`` filled in, as Prefect does it; unknown names stay."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda found: variables.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {key: _filled_in(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled_in(item, variables) for item in value]
    return value


def _deploy_file(api: Api, content: dict[str, Any], variables: Mapping[str, str]) -> None:
    with scratch_folder("deploy") as folder:
        path = folder / "prefect.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        _prefect(api, ["deploy", "--all", "--prefect-file", str(path)], variables)


def _finish(api: Api, merged: Mapping[tuple[str, str], Settings]) -> None:
    """Do what ``prefect deploy`` leaves: schedules that nobody wants, and people's texts with braces.

    It reads such texts as templates and fills them in.
    """
    for item in api.post("/deployments/filter"):
        wanted = merged.get(_identity(item))
        if wanted is None:
            continue
        path = f"/deployments/{item['id']}"
        names = {key[1] for key in wanted if key[0] == "schedules"}
        made = into_file(item, wanted)
        for schedule in item["schedules"]:
            slug = schedule["slug"]
            if not (slug in names if slug else any(map(is_unnamed, names))):
                api.delete(f"{path}/schedules/{schedule['id']}")
        filled = {key[0] for key in templated(wanted)}
        if filled & {"description", "parameters", "tags"}:
            api.patch(path, {key: made[key] for key in ("description", "parameters", "tags")})
        if "job_variables" in filled:
            api.patch(path, {"job_variables": made["work_pool"]["job_variables"]})
        if "schedules" in filled:
            there = {schedule["slug"]: schedule["id"] for schedule in item["schedules"]}
            for entry in made["schedules"]:
                if entry.get("slug") in there:
                    values = {"parameters": entry.get("parameters", {})}
                    api.patch(f"{path}/schedules/{there[entry['slug']]}", values)


def read_record(api: Api) -> dict[str, Settings]:
    """What was deployed last, by the deployments' names; empty where nobody knows."""
    found = api.post("/variables/filter", {"variables": {"name": {"any_": [RECORD_VARIABLE]}}})
    try:
        content = json.loads(zlib.decompress(base64.b64decode(found[0]["value"])))
        return {
            name: {tuple(key): value for key, value in settings}
            for name, settings in content.items()
        }
    except (IndexError, ValueError, TypeError, AttributeError, zlib.error):
        return {}


def write_record(api: Api, deployed: Mapping[str, Settings]) -> None:
    """Note what was deployed in a variable of the server, which holds 5,000 characters."""
    content = {**read_record(api), **deployed}
    rows = {name: [[key, value] for key, value in found.items()] for name, found in content.items()}
    packed = base64.b64encode(zlib.compress(json.dumps(rows).encode(), 9)).decode()
    variable = {"value": packed, "tags": ["effnet"]}
    path = f"/variables/name/{RECORD_VARIABLE}"
    try:
        if api.post("/variables/filter", {"variables": {"name": {"any_": [RECORD_VARIABLE]}}}):
            api.patch(path, variable)
        else:
            api.post("/variables/", {"name": RECORD_VARIABLE, **variable})
    except ConfigError as refusal:
        console.print(
            f"warning: what was deployed could not be noted on the server ({refusal}); at the next "
            "deployment, settings that differ from the repository's stay as they are",
            soft_wrap=True,
            markup=False,
        )


def _create_pool(api: Api, place: Environment) -> None:
    """The environment's work pool, if there is none of that name; an old one is left as people set it."""
    named = {"work_pools": {"name": {"any_": [place.pool]}}}
    if api.post("/work_pools/filter", named):
        return
    command = ["work-pool", "create", place.pool, "--type", place.pool_type]
    if place.job_template:
        command += ["--base-job-template", str(DEPLOYMENTS.parent / place.job_template)]
    try:
        _prefect(api, command)
    except ServiceError:
        if not api.post("/work_pools/filter", named):  # else a worker that started was faster
            raise


def _prefect(api: Api, arguments: list[str], variables: Mapping[str, str] | None = None) -> None:
    """What Prefect offers on its command line only."""
    environment = {**SERVICE_SETTINGS, **os.environ, **(variables or {}), API_URL: api.url}
    if api.auth is not None:
        environment[AUTH_VARIABLE] = api.auth
    state = own_state_dir()
    environment.setdefault("PREFECT_HOME", str(state / "prefect"))
    environment["PYTHONPATH"] = python_path()
    command = " ".join(["prefect", *arguments])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=state,  # where nothing can be taken for a module of ours
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired as cause:
        raise ServiceError(
            f"{command} did not end within {PATIENCE_S:.0f} s, because the Prefect server does not answer; "
            "look at it with effnet status, and run the same command again"
        ) from cause
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ServiceError(f"{command} failed: {lines[-1] if lines else 'no output'}")
