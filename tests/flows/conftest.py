"""One Prefect test server for all flow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session", autouse=True)
def prefect_server() -> Iterator[None]:
    """Flows in these tests report to a temporary server with a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
