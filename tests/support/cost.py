"""A pytest plug-in that adds up the processor time of each test: ``pytest -p tests.support.cost``.

Child processes count once they have been waited for, those of a service thus with the test that stops it.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest

_SHOWN = 40
_spent: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
"""Seconds of processors and of the clock, by phase and test."""


def _now() -> tuple[float, float]:
    times = os.times()
    return sum(times[:4]), time.monotonic()


def _add(name: str, before: tuple[float, float]) -> None:
    for index, (then, now) in enumerate(zip(before, _now(), strict=True)):
        _spent[name][index] += now - then


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    before = _now()
    try:
        return (yield)
    finally:
        _add(f"setup     {item.nodeid}", before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = _now()
    try:
        return (yield)
    finally:
        _add(f"call      {item.nodeid}", before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    before = _now()
    try:
        return (yield)
    finally:
        _add(f"teardown  {item.nodeid}", before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The dearest phases, then the sums of files and of all."""
    files: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, seconds in _spent.items():
        for index in (0, 1):
            files[name.split()[1].partition("::")[0]][index] += seconds[index]
    for title, rows in (("tests", _spent), ("files", files)):
        terminalreporter.section(f"processor and clock, s: {title}")
        dearest = sorted(rows.items(), key=lambda row: -row[1][0])[:_SHOWN]
        for name, (processor, clock) in dearest:
            terminalreporter.write_line(f"{processor:8.2f} {clock:8.2f}  {name}")
    terminalreporter.write_line(f"{_now()[0]:8.2f}  in all, imports and collection included")
