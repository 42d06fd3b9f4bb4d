"""What people see of a transfer: how much of how much, and MB/s."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from effnet_core.cli import lines, terminal
from effnet_core.events import Event, emit
from effnet_core.storage import S3Url, ranged
from effnet_core.storage.ranged import Progress
from effnet_core.storage.s3 import S3Store
from tests.support.s3 import SeaweedFS


def test_an_event_a_second_and_a_line_twice_a_minute(
    monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    seconds = 0.0
    monkeypatch.setattr(ranged.time, "monotonic", lambda: seconds)
    transfer = Progress("fetched s3://bucket/set", 90_000_000)
    for _ in range(180):
        seconds += 0.5
        transfer.add(500_000)
    transfer.end(180)
    assert [event.done for event in events[:3]] == [1_000_000, 2_000_000, 3_000_000]
    assert all(event.total == 90_000_000 for event in events)
    assert events[1].metrics["mb_per_s"] == 1.0
    assert events[1].metrics["note"] == "fetched s3://bucket/set: 2.0 MB of 90.0 MB, 1.0 MB/s"
    told = [event.message for event in events if event.message]
    assert told[0] == "fetched s3://bucket/set: 30.0 MB of 90.0 MB, 1.0 MB/s"
    assert told[-1] == "fetched s3://bucket/set: 180 file(s), 90.0 MB, 1.0 MB/s"
    assert len(told) == 4


def test_a_large_file_of_the_model_store_tells_how_far_it_is(
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: list[Event],
) -> None:
    monkeypatch.setattr(ranged, "EVENT_EVERY_S", 0.0)
    monkeypatch.setattr(ranged, "PART_BYTES", 1000)
    monkeypatch.setattr(ranged, "PART_THREADS", 1)
    store = S3Store(S3Url(bucket, "models"), seaweedfs.access)
    (tmp_path / "model.ckpt").write_bytes(b"x" * 3500)
    store.put_file(tmp_path / "model.ckpt", "m/model.ckpt")
    sent, events[:] = list(events), []
    store.get_file("m/model.ckpt", tmp_path / "back")
    assert (sent[-1].done, sent[-1].total) == (3500, 3500)
    assert sent[-1].metrics["note"].startswith(f"stored s3://{bucket}/models/m/model.ckpt: 3.5 kB")
    assert [event.done for event in events] == [1000, 2000, 3000, 3500]
    assert events[-1].metrics["note"].startswith(f"fetched s3://{bucket}/models/m/model.ckpt: 3.5")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 200 columns."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=200, highlight=False)
    monkeypatch.setattr(terminal, "console", console)
    monkeypatch.setattr(lines, "is_watched", lambda: True)
    return text


def test_the_terminal_shows_the_speed(screen: io.StringIO) -> None:
    note = "fetched s3://bucket/odd[/dim]name: 1.0 MB of 2.0 MB, 12.5 MB/s"
    with lines.show_events():
        emit(Event("transfer", "", 1_000_000, 2_000_000, {"mb_per_s": 12.5, "note": note}))
    assert note in screen.getvalue()


def test_a_log_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with lines.show_events():
        emit(Event("transfer", "", 1, 2, {"note": "fetched 1 of 2, 3 MB/s"}))
        emit(Event("transfer", "fetched [/dim] :smile: 2 of 2, 3 MB/s", 2, 2))
    lines.say("1 file(s) copied")
    assert capsys.readouterr().out == (
        " transfer  fetched [/dim] :smile: 2 of 2, 3 MB/s\n1 file(s) copied\n"
    )


def test_in_a_log_a_reminder_does_not_keep_back_the_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps came every eight seconds, and each was told as what had been said five seconds before."""
    seconds = 100.0
    monkeypatch.setattr(lines.time, "monotonic", lambda: seconds)
    with lines.show_events():
        for step in (1, 2, 3):
            emit(Event("train", f"step {step}", metrics={"kind": "train", "loss": 1.0}))
            seconds += 5.0
            emit(Event("train", f"step {step} ... 5 s", metrics={"kind": "reminder"}))
            seconds += 1.0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if "..." not in line] == [
        f"    train  step {step}" for step in (1, 2, 3)
    ]
