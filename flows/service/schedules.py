"""``effnet schedule NAME``: what a deployment does by itself, and when."""

from __future__ import annotations

from collections.abc import Sequence

from effnet_core.cli.terminal import console
from effnet_core.errors import ConfigError
from flows.service.api import JSON, Api
from flows.service.runs import find, parse_parameter


def schedule(
    api: Api, name: str, *, active: bool | None, cron: str | None, parameters: Sequence[str]
) -> None:
    """Change a deployment's schedule as far as it is asked for, and say what it is now.

    Args:
        api: server that knows the deployment.
        name: ``DEPLOYMENT`` or ``FLOW/DEPLOYMENT``.
        active: whether it is on; as it is by default.
        cron: when, such as ``0 3 * * *``, in the time zone that it has; as it is by default.
        parameters: ``KEY=VALUE`` each, for runs that the schedule starts, beside those it has.

    Raises:
        ConfigError: the deployment or a parameter is unknown, a value is not allowed, or there is not one
            schedule.
    """
    deployment = find(api, name)
    entry = _only_schedule(deployment)
    given = dict(parse_parameter(deployment, text) for text in parameters)
    if given or cron is not None or active is not None:
        # All of it, since the server empties the parameters of an entry that comes without.
        changes: JSON = {
            "active": entry["active"] if active is None else active,
            "parameters": {**(entry.get("parameters") or {}), **given},
        }
        if cron is not None:
            _require_cron(cron)
            timezone = entry["schedule"].get("timezone") or "UTC"
            changes["schedule"] = {"cron": cron, "timezone": timezone}
        api.patch(f"/deployments/{deployment['id']}/schedules/{entry['id']}", changes)
        entry = _only_schedule(api.get(f"/deployments/{deployment['id']}"))
    console.print(f"{deployment['name']}: {_in_words(deployment, entry)}", soft_wrap=True)


def _require_cron(cron: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise ConfigError(
            f"--cron {cron!r} is not a time as cron writes it: minute, hour, day, month and day of the week, "
            "such as '0 3 * * *'"
        ) from None


def _only_schedule(deployment: JSON) -> JSON:
    found: list[JSON] = deployment["schedules"]
    if len(found) != 1:
        raise ConfigError(
            f"deployment {deployment['name']!r} has {len(found) or 'no'} schedules; change them on the "
            "dashboard: Deployments, the deployment, Schedules"
        )
    return found[0]


def _in_words(deployment: JSON, entry: JSON) -> str:
    when = entry["schedule"]
    time = when.get("cron") or when.get("rrule") or f"every {when.get('interval')} s"
    given = {**deployment["parameters"], **(entry.get("parameters") or {})}
    values = ", ".join(f"{key}={value}" for key, value in given.items())
    state = "on" if entry["active"] else "off"
    return f"{state}, {time} ({when.get('timezone') or 'UTC'}), with {values or 'no parameters'}"
