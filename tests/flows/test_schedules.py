"""``effnet schedule``: a schedule is switched on, moved and given parameters from the terminal."""

from __future__ import annotations

import pytest

from tests.flows.service import TestedService

pytestmark = pytest.mark.prefect


def test_a_schedule_is_shown_and_changed(service: TestedService) -> None:
    def schedule(*arguments: str) -> str:
        done = service.effnet("schedule", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert schedule("batch-infer-inbox").startswith(
        "batch-infer-inbox: off, */15 * * * * (UTC), with"
    )
    changes = "--on", "--cron", "30 4 * * *", "-p", "folder=holiday", "-p", "top_k=3"
    shown = schedule("batch-infer-inbox", *changes)
    assert shown.startswith("batch-infer-inbox: on, 30 4 * * * (UTC), with folder=holiday, ")
    assert "weights=production" in shown  # the deployment's own
    assert "top_k=3" in shown
    assert schedule("batch-infer/batch-infer-inbox", "-p", "top_k=1").count("folder=holiday") == 1
    back = schedule("batch-infer-inbox", "--off", "--cron", "*/15 * * * *")
    assert back.startswith("batch-infer-inbox: off, */15 * * * * (UTC)")
    found = service.api.get("/deployments/name/batch-infer/batch-infer-inbox")
    assert found["schedules"][0]["parameters"] == {"folder": "holiday", "top_k": 1}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("train-b0", "--on"), "has no schedules; change them on the dashboard"),
        (("nightly", "--on"), "deployment 'nightly' is unknown"),
        (
            ("nightly-pipeline", "-p", "fodler=x"),
            "has no parameter 'fodler'; did you mean 'folder'?",
        ),
        (
            ("nightly-pipeline", "--cron", "at three"),
            "--cron 'at three' is not a time as cron writes it",
        ),
    ],
)
def test_what_cannot_be_scheduled(
    arguments: tuple[str, ...], reason: str, service: TestedService
) -> None:
    done = service.effnet("schedule", *arguments)
    assert done.returncode == 2, done.stdout
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
