"""What a deployment becomes that people and the repository changed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from effnet_core.errors import ConfigError
from flows.service.merging import NOWHERE, Settings, into_file, merge, of_file, of_server, templated

FILE: dict[str, Any] = {
    "name": "nightly",
    "entrypoint": "flows/pipeline.py:pipeline_flow",
    "description": "Nightly.",
    "parameters": {"recipe": "b0", "folder": "photos"},
    "tags": ["pipeline", "scheduled"],
    "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
    "schedules": [{"slug": "nightly", "cron": "0 3 * * *", "timezone": "UTC", "active": False}],
    "work_pool": {"name": "local", "job_variables": {"stream_output": False, "env": {"A": "1"}}},
}
SERVER: dict[str, Any] = {
    "name": "nightly",
    "description": "Nightly.",
    "paused": False,
    "parameters": {"recipe": "b0", "folder": "photos"},
    "tags": ["pipeline", "scheduled"],
    "global_concurrency_limit": {"limit": 1},
    "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
    "work_queue_name": "default",
    "job_variables": {"stream_output": False, "env": {"A": "1"}},
    "schedules": [
        {
            "id": "1",
            "slug": "nightly",
            "schedule": {"cron": "0 3 * * *", "timezone": "UTC", "day_or": True},
            "active": False,
            "parameters": {},
        }
    ],
}


def changed(item: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    """A copy with another value somewhere; None removes it."""
    item = deepcopy(item)
    place: Any = item
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return item


def merged(
    file: dict[str, Any], server: dict[str, Any], base: dict[str, Any] | None = FILE
) -> tuple[dict[str, Any], list[str]]:
    """What is deployed, and the sentences about it."""
    settings, conflicts = merge(
        ours=of_file(file), theirs=of_server(server), base=of_file(base) if base else {}
    )
    return into_file(file, settings), [str(conflict) for conflict in conflicts]


def test_what_is_deployed_reads_back_as_the_file() -> None:
    assert of_server(SERVER) == of_file(FILE)
    assert of_file(into_file(FILE, of_file(FILE))) == of_file(FILE)
    assert merged(FILE, SERVER) == merged(FILE, SERVER, base=None)


PERSON = [
    (("schedules", 0, "schedule", "cron"), "30 5 * * *", ("schedules", 0, "cron")),
    (("schedules", 0, "schedule", "timezone"), "Europe/Berlin", ("schedules", 0, "timezone")),
    (("schedules", 0, "active"), True, ("schedules", 0, "active")),
    (("schedules", 0, "parameters"), {"epochs": 3}, ("schedules", 0, "parameters")),
    (("parameters", "folder"), "inbox", ("parameters", "folder")),
    (("parameters", "epochs"), 3, ("parameters", "epochs")),
    (("paused",), True, ("paused",)),
    (("tags",), ["pipeline", "scheduled", "mine"], ("tags",)),
    (("tags",), ["pipeline"], ("tags",)),
    (("description",), "Ours.", ("description",)),
    (("global_concurrency_limit", "limit"), 4, ("concurrency_limit", "limit")),
    (
        ("concurrency_options", "collision_strategy"),
        "ENQUEUE",
        ("concurrency_limit", "collision_strategy"),
    ),
    (("work_queue_name",), "fast", ("work_pool", "work_queue_name")),
    (("job_variables", "env", "B"), "2", ("work_pool", "job_variables", "env", "B")),
    (("job_variables", "stream_output"), True, ("work_pool", "job_variables", "stream_output")),
]


def value_at(item: dict[str, Any], path: tuple[Any, ...]) -> Any:
    value: Any = item
    for key in path:
        value = value[key]
    return value


@pytest.mark.parametrize(("path", "value", "place"), PERSON)
def test_what_a_person_changed_stays_and_the_rest_arrives(
    path: tuple[Any, ...], value: Any, place: tuple[Any, ...]
) -> None:
    server = changed(SERVER, *path, to=value)
    file = changed(FILE, "parameters", "recipe", to="b4")
    made, told = merged(file, server)
    assert value_at(made, place) == value
    assert made["parameters"]["recipe"] == "b4"
    assert told == []
    # and at the next deployment as well, from the file that was deployed last
    assert merged(file, changed(server, "parameters", "recipe", to="b4"), base=file) == (made, [])


def test_what_the_repository_changed_arrives() -> None:
    file = changed(FILE, "schedules", 0, "cron", to="0 4 * * *")
    file = changed(file, "parameters", "folder", to=None)
    file = changed(file, "tags", to=["pipeline", "new"])
    made, told = merged(file, SERVER)
    assert (made, told) == (into_file(file, of_file(file)), [])
    assert made["schedules"][0]["cron"] == "0 4 * * *"
    assert "folder" not in made["parameters"]


def test_where_both_changed_the_persons_stays_and_is_reported() -> None:
    server = changed(SERVER, "schedules", 0, "schedule", "cron", to="30 5 * * *")
    server = changed(server, "parameters", "folder", to="inbox")
    file = changed(FILE, "schedules", 0, "cron", to="0 4 * * *")
    file = changed(file, "parameters", "folder", to="pictures")
    made, told = merged(file, server)
    assert made["schedules"][0]["cron"] == "30 5 * * *"
    assert made["parameters"]["folder"] == "inbox"
    assert len(told) == 2
    assert any("30 5 * * *" in text and "0 4 * * *" in text for text in told)
    assert any('stays "inbox"' in text and '"pictures"' in text for text in told)
    assert merged(file, server, base=file)[1] == []  # told once


def test_both_changed_to_the_same() -> None:
    server = changed(SERVER, "parameters", "folder", to="inbox")
    file = changed(FILE, "parameters", "folder", to="inbox")
    made, told = merged(file, server)
    assert (made["parameters"]["folder"], told) == ("inbox", [])


def test_a_schedule_made_on_the_dashboard_stays() -> None:
    extra = {
        "id": "2",
        "slug": None,
        "schedule": {"interval": 3600.0, "timezone": "UTC", "anchor_date": "2026-01-01T00:00:00Z"},
        "active": True,
        "parameters": {"epochs": 1},
    }
    made, told = merged(FILE, changed(SERVER, "schedules", to=[*SERVER["schedules"], extra]))
    assert told == []
    assert made["schedules"][1] == {
        "interval": 3600.0,
        "timezone": "UTC",
        "anchor_date": "2026-01-01T00:00:00Z",
        "active": True,
        "parameters": {"epochs": 1},
    }


def test_a_schedule_removed_on_the_dashboard_stays_away() -> None:
    server = changed(SERVER, "schedules", to=[])
    assert merged(FILE, server) == (into_file(FILE, of_server(server)), [])
    file = changed(FILE, "schedules", 0, "parameters", to={"epochs": 1})
    made, told = merged(file, server)
    assert (made["schedules"], told) == ([], [])
    file = changed(FILE, "schedules", 0, "cron", to="0 4 * * *")
    made, told = merged(file, server)
    assert made["schedules"] == []
    assert "stays removed" in told[0]


def test_a_schedule_removed_from_the_repository() -> None:
    file = changed(FILE, "schedules", to=[])
    assert merged(file, SERVER)[0]["schedules"] == []
    made, told = merged(file, changed(SERVER, "schedules", 0, "active", to=True))
    assert (made["schedules"][0]["cron"], made["schedules"][0]["active"]) == ("0 3 * * *", True)
    assert "not removed" in told[0]


def test_a_parameter_may_be_nothing_on_purpose() -> None:
    server = deepcopy(SERVER)
    server["parameters"]["folder"] = None
    assert merged(FILE, server)[0]["parameters"] == {"recipe": "b0", "folder": None}


def test_what_nobody_noted_stays_and_is_reported() -> None:
    server = changed(SERVER, "parameters", "folder", to="inbox")
    file = changed(FILE, "parameters", "seed", to=1)
    made, told = merged(file, server, base=None)
    assert made["parameters"] == {"recipe": "b0", "folder": "inbox", "seed": 1}
    assert len(told) == 1


def test_a_schedule_without_a_slug_is_refused() -> None:
    with pytest.raises(ConfigError, match="deployment 'nightly' has no slug"):
        of_file(changed(FILE, "schedules", 0, "slug", to=None))


def test_the_environments_settings_are_known() -> None:
    file = changed(FILE, "work_pool", "job_variables", "env", "A", to="{{ $EFFNET_SLOT }}")
    assert templated(of_file(file)) == [("job_variables", "env", "A")]


def test_nowhere_is_no_value() -> None:
    ours: Settings = {("parameters", "x"): None}
    assert merge(ours=ours, theirs={("parameters", "x"): NOWHERE}, base={})[0] == ours
