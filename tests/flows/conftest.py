"""One Prefect test server for all flow tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness

from flows.service.deploy import SERVICE_SETTINGS
from tests.flows.service import TestedService, processes_naming


@pytest.fixture(scope="session", autouse=True)
def prefect_server(request: pytest.FixtureRequest) -> Iterator[None]:
    """Flows in these tests report to a temporary server with a database of its own.

    Where all tests of a run ask a service, nothing would ever ask this server, and it is not started.
    """
    if all("service" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        name = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
        patch.setenv(name, SERVICE_SETTINGS[name])
        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestedService]:
    """A service that ``effnet up`` has started; ``effnet down`` leaves no process of it."""
    tested = TestedService(tmp_path_factory.mktemp("service"))
    try:
        tested.up()
        yield tested
    finally:
        done = tested.effnet("down")
    assert done.returncode == 0, done.stderr
    assert processes_naming(tested.folder) == []
    assert not (tested.folder / "prefect.toml").exists()
