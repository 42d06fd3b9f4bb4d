"""The stream of events."""

from __future__ import annotations

import logging

import pytest

from effnet_core.events import Event, emit, listen


def test_every_listener_hears_every_event() -> None:
    first: list[Event] = []
    second: list[Event] = []
    with listen(first.append):
        emit(Event("a"))
        with listen(second.append):
            emit(Event("b"))
        emit(Event("c"))
    emit(Event("d"))
    assert [event.stage for event in first] == ["a", "b", "c"]
    assert [event.stage for event in second] == ["b"]


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
    assert Event("a").to_dict() == {"stage": "a"}
    assert Event("a", done=0, total=3).to_dict() == {"stage": "a", "done": 0, "total": 3}
    event = Event("a", "m", 1, 2, {"loss": 0.5})
    assert Event(**event.to_dict()) == event
