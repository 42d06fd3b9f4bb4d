"""The stream of events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from effnet_core.events import Event, Threads, emit, emit_sometimes, in_this_context, listen


def test_every_listener_hears_every_event() -> None:
    first: list[Event] = []
    second: list[Event] = []
    with listen(first.append):
        emit(Event("a"))
        with listen(second.append):
            emit(Event("b"))
        emit(Event("c"))
    emit(Event("d"))
    assert [event.topic for event in first] == ["a", "b", "c"]
    assert [event.topic for event in second] == ["b"]


def test_a_listener_is_gone_after_an_error() -> None:
    seen: list[Event] = []
    with pytest.raises(ValueError, match="x"), listen(seen.append):
        raise ValueError("x")
    emit(Event("a"))
    assert seen == []


def test_messages_reach_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="effnet_core"):
        emit(Event("a", "100 % done"))
        emit(Event("a", done=1, total=2))
    assert caplog.messages == ["100 % done"]


def test_to_dict_leaves_empty_fields_out_and_round_trips() -> None:
    assert Event("a").to_dict() == {"topic": "a"}
    assert Event("a", done=0, total=3).to_dict() == {"topic": "a", "done": 0, "total": 3}
    event = Event("a", "m", 1, 2, {"loss": 0.5})
    assert Event(**event.to_dict()) == event


def at_the_same_time(*works: Callable[[threading.Barrier], None]) -> None:
    """Run each in a thread of its own; they can wait for each other."""
    barrier = threading.Barrier(len(works), timeout=10)
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work, barrier) for work in works]:
            done.result()


def test_events_of_two_threads_do_not_mix() -> None:
    seen: dict[str, list[Event]] = {"a": [], "b": []}

    def run(name: str, barrier: threading.Barrier) -> None:
        with listen(seen[name].append):
            barrier.wait()
            emit(Event(name))
            barrier.wait()

    at_the_same_time(lambda barrier: run("a", barrier), lambda barrier: run("b", barrier))
    assert seen == {"a": [Event("a")], "b": [Event("b")]}


def test_events_of_a_pool_reach_the_listener_of_the_code_that_uses_it() -> None:
    seen: dict[str, list[Event]] = {"a": [], "b": []}
    with Threads(1) as shared:

        def run(name: str, barrier: threading.Barrier) -> None:
            with listen(seen[name].append):
                barrier.wait()
                shared.submit(emit, Event(name)).result()
                list(shared.map(emit, [Event(f"{name}{i}") for i in range(2)]))
                barrier.wait()

        at_the_same_time(lambda barrier: run("a", barrier), lambda barrier: run("b", barrier))
    assert {name: [e.topic for e in events] for name, events in seen.items()} == {
        "a": ["a", "a0", "a1"],
        "b": ["b", "b0", "b1"],
    }


def test_a_function_that_others_call_keeps_its_listener() -> None:
    """boto3 calls what it is given in threads of its own, several at once."""
    seen: list[Event] = []
    with listen(seen.append):
        tell = in_this_context(emit)
    threads = [threading.Thread(target=tell, args=(Event("a"),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [Event("a")] * 4


def test_progress_of_one_run_does_not_hold_back_that_of_another() -> None:
    seen: dict[str, list[Event]] = {"a": [], "b": []}
    for events in seen.values():
        with listen(events.append):
            emit_sometimes("stage", 1, 3)
            emit_sometimes("stage", 2, 3)
            emit_sometimes("stage", 3, 3)
    assert (
        seen["a"] == seen["b"] == [Event("stage", done=1, total=3), Event("stage", done=3, total=3)]
    )
