"""Three-way merge of a deployment: the repository's file, the server, and what was deployed last.

Settings are compared one by one, such as a parameter, a tag, or the time of a schedule. What a person changed
on the dashboard stays, what the repository changed arrives, and where both did, the person's stays.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from effnet_core.errors import ConfigError

Key = tuple[str, ...]
Settings = dict[Key, Any]
"""A deployment's settings by their keys, such as ``("parameters", "recipe")``."""

DEFAULT_QUEUE = "default"


class _Nowhere:
    """Value of a setting that is not there; None may be a parameter's value."""


NOWHERE = _Nowhere()


@dataclass(frozen=True)
class Conflict:
    """A setting that both a person and the repository changed."""

    key: Key
    kept: Any
    """The person's value; ``NOWHERE`` where the person removed it."""
    refused: Any
    """The repository's."""

    def __str__(self) -> str:
        kept, refused = (
            "removed" if value is NOWHERE else json.dumps(value, ensure_ascii=False)
            for value in (self.kept, self.refused)
        )
        return (
            f"{' '.join(self.key)} stays {kept} as set on the dashboard, and not {refused} as in "
            "the repository; --reset takes the repository's"
        )


def merge(*, ours: Settings, theirs: Settings, base: Settings) -> tuple[Settings, list[Conflict]]:
    """What to deploy.

    Args:
        ours: the repository's file.
        theirs: the server.
        base: the repository's file when it was deployed last; empty where nobody knows.

    Returns:
        The merged settings, and what the repository changed in vain.
    """
    merged, conflicts = {}, []
    for key in {**ours, **theirs}:
        our, their, old = (place.get(key, NOWHERE) for place in (ours, theirs, base))
        value = our if their == old else their
        if their not in (old, our) and our != old:
            conflicts.append(Conflict(key, their, our))
        if value is not NOWHERE:
            merged[key] = value
    return _whole_schedules(merged, theirs), conflicts


def _whole_schedules(merged: Settings, theirs: Settings) -> Settings:
    """Without the rest of schedules that were removed; one that a person changed is kept whole."""
    for slug in {key[1] for key in merged if key[0] == "schedules"}:
        when = "schedules", slug, "when"
        if when in merged:
            continue
        for key in [key for key in merged if key[:2] == when[:2]]:
            del merged[key]
        if when in theirs:  # the repository removed it, but a person works with it
            merged |= {key: value for key, value in theirs.items() if key[:2] == when[:2]}
    return merged


def of_file(item: Mapping[str, Any]) -> Settings:
    """The settings of a deployment in ``deployments/prefect.yaml``.

    Raises:
        ConfigError: a schedule has no slug, so it would not be known again.
    """
    limit = item.get("concurrency_limit")
    limit = limit if isinstance(limit, Mapping) else {"limit": limit}
    pool = item.get("work_pool") or {}
    found: Settings = {
        ("description",): item.get("description"),
        ("paused",): bool(item.get("paused")),
        ("concurrency", "limit"): limit.get("limit"),
        ("concurrency", "strategy"): limit.get("collision_strategy"),
        ("queue",): pool.get("work_queue_name") or DEFAULT_QUEUE,
        **{("tags", tag): True for tag in item.get("tags") or []},
        **_flat("parameters", item.get("parameters") or {}),
        **_flat("job_variables", pool.get("job_variables") or {}, deep=True),
    }
    for schedule in item.get("schedules") or []:
        if not schedule.get("slug"):
            raise ConfigError(
                f"a schedule of deployment {item['name']!r} has no slug; give it one, so that it is "
                "known again when people change it on the dashboard"
            )
        found |= _schedule(schedule["slug"], schedule, schedule)
    return _without_none(found)


def of_server(item: Mapping[str, Any]) -> Settings:
    """The settings of a deployment as the server tells them."""
    found: Settings = {
        ("description",): item.get("description"),
        ("paused",): bool(item["paused"]),
        ("concurrency", "limit"): (item.get("global_concurrency_limit") or {}).get("limit"),
        ("concurrency", "strategy"): (item.get("concurrency_options") or {}).get(
            "collision_strategy"
        ),
        ("queue",): item.get("work_queue_name") or DEFAULT_QUEUE,
        **{("tags", tag): True for tag in item["tags"]},
        **_flat("parameters", item["parameters"]),
        **_flat("job_variables", item["job_variables"], deep=True),
    }
    for schedule in item["schedules"]:
        name = schedule["slug"] or _unnamed(schedule["id"])
        found |= _schedule(name, schedule["schedule"], schedule)
    return _without_none(found)


def into_file(item: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """A deployment for ``prefect deploy`` with these settings, and the rest of ``item``."""
    jobs = _deep(settings, "job_variables")
    pool = {**(item.get("work_pool") or {}), "job_variables": jobs}
    if (queue := settings.get(("queue",), DEFAULT_QUEUE)) != DEFAULT_QUEUE:
        pool["work_queue_name"] = queue
    schedules: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if key[0] == "schedules":
            schedules.setdefault(key[1], {})[key[2]] = value
    made = {
        **item,
        "description": settings.get(("description",)),
        "paused": settings.get(("paused",), False),
        "tags": [key[1] for key in settings if key[0] == "tags"],
        "parameters": _deep(settings, "parameters"),
        "work_pool": pool,
        "schedules": [_schedule_entry(name, found) for name, found in schedules.items()],
    }
    made.pop("concurrency_limit", None)
    if limit := settings.get(("concurrency", "limit")):
        strategy = settings.get(("concurrency", "strategy"), "ENQUEUE")
        given = item.get("concurrency_limit")
        more = given if isinstance(given, Mapping) else {}
        made["concurrency_limit"] = {**more, "limit": limit, "collision_strategy": strategy}
    return made


def is_unnamed(name: str) -> bool:
    """Whether a schedule was made on the dashboard, where it gets no slug."""
    return name.startswith(_unnamed(""))


def _unnamed(identity: str) -> str:
    return f"made on the dashboard {identity}"


def _schedule(name: str, when: Mapping[str, Any], rest: Mapping[str, Any]) -> Settings:
    """A schedule's settings; its time is one of them, since its parts mean nothing alone."""
    kind = next((kind for kind in ("cron", "interval", "rrule") if when.get(kind)), "cron")
    time = {kind: when.get(kind), "timezone": when.get("timezone") or "UTC"}
    if kind == "cron" and when.get("day_or") is False:
        time["day_or"] = False
    active = rest.get("active")
    return {
        ("schedules", name, "when"): time,
        ("schedules", name, "anchor_date"): when.get("anchor_date"),
        ("schedules", name, "active"): active is None or bool(active),
        ("schedules", name, "parameters"): rest.get("parameters") or None,
    }


def _schedule_entry(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    entry = {**found["when"], "active": found["active"]}
    if not is_unnamed(name):
        entry["slug"] = name
    if "interval" in entry and "anchor_date" in found:
        entry["anchor_date"] = found["anchor_date"]
    if "parameters" in found:
        entry["parameters"] = found["parameters"]
    return entry


def _flat(name: str, values: Mapping[str, Any], *, deep: bool = False) -> Settings:
    found: Settings = {}
    for key, value in values.items():
        if deep and isinstance(value, Mapping) and value:
            found |= {(name, *rest): leaf for rest, leaf in _flat(key, value, deep=True).items()}
        else:
            found[name, key] = value
    return found


def _deep(settings: Settings, name: str) -> dict[str, Any]:
    """The inverse of ``_flat``."""
    made: dict[str, Any] = {}
    for key, value in settings.items():
        if key[0] == name:
            place = made
            for part in key[1:-1]:
                place = place.setdefault(part, {})
            place[key[-1]] = value
    return made


def _without_none(settings: Settings) -> Settings:
    """Without what is not set; a parameter or job variable may be None on purpose."""
    free = ("parameters", "job_variables")
    return {key: value for key, value in settings.items() if value is not None or key[0] in free}


def templated(settings: Settings) -> Iterable[Key]:
    """Settings whose value is filled in when they are deployed: the environment's, so nobody else's."""
    return [key for key, value in settings.items() if "{{" in json.dumps(value)]
