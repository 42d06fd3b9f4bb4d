"""Tasks side by side in one process: each keeps its listener and its credentials to itself."""

from __future__ import annotations

import json
import threading

from prefect import flow, task
from prefect.blocks.system import Secret

from effnet_core.config.load import load_config
from effnet_core.events import Event, emit, listen
from effnet_core.storage.client import in_use
from tasks.credentials import credentials_of


def test_tasks_side_by_side_do_not_mix() -> None:
    names = ("first", "second")
    for name in names:
        pair = {"aws_access_key_id": name, "aws_secret_access_key": "secret"}
        Secret(value=json.dumps(pair)).save(f"{name}-key", overwrite=True)
    barrier = threading.Barrier(2, timeout=30)

    @task
    def work(name: str) -> tuple[str, list[str]]:
        seen: list[Event] = []
        storage = load_config(None, [f"storage.credentials_block={name}-key"]).storage
        with credentials_of(storage), listen(seen.append):
            barrier.wait()
            emit(Event(name))
            given = in_use()
            barrier.wait()
        assert given is not None
        return given.access_key_id, [event.topic for event in seen]

    @flow
    def both() -> tuple[list[tuple[str, list[str]]], list[str]]:
        heard: list[Event] = []
        with listen(heard.append):  # a task's events are those of the flow that started it, too
            tasks = [work.submit(name) for name in names]
            answers = [done.result() for done in tasks]
        return answers, sorted(event.topic for event in heard)

    answers, heard = both()
    assert answers == [(name, [name]) for name in names]
    assert heard == list(names)
    assert in_use() is None
