"""Who reaches the service: its user's commands, and neither other pages nor other users."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flows.service.private import LOGIN_NAME
from tests.flows.service import TestedService, wait_for

pytestmark = [pytest.mark.prefect]

EVIL = "http://evil.example"


def test_without_the_login_nothing_is_shown(service: TestedService) -> None:
    assert service.ask("GET", "/health") == 200
    for path in ("/admin/settings", "/block_types/slug/secret", "/version"):
        assert service.ask("GET", path) == 401
        assert service.ask("GET", path, Authorization="Basic ZWZmbmV0Omd1ZXNz") == 401
        assert service.ask("GET", path, login=True) == 200
    assert service.ask("POST", "/flow_runs/filter") == 403
    assert service.ask("POST", "/flow_runs/filter", login=True) == 403  # without a CSRF token


def test_foreign_pages_and_names_are_refused_whatever_they_know(service: TestedService) -> None:
    host = service.url.removeprefix("http://")
    for headers, status in (
        ({"Origin": f"http://{host}"}, 200),
        ({"Origin": EVIL}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Host": "evil.example", "Origin": EVIL}, 400),
    ):
        assert service.ask("GET", "/admin/settings", login=True, **headers) == status
    for name in ("Content-Type", "Authorization", "Prefect-Csrf-Token"):
        asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = name
        assert service.ask("OPTIONS", "/deployments/filter", **asked) == 403
    assert service.ask("POST", "/deployments/filter", **{"Content-Type": "text/plain"}) == 403


def test_sockets_want_the_login_and_an_own_page(service: TestedService) -> None:
    address = f"{service.api.url}/events/in".replace("http://", "ws://")
    with pytest.raises(InvalidStatus):
        connect(address, origin=EVIL, subprotocols=["prefect"])  # type: ignore[arg-type, list-item]
    with connect(address, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
        socket.send('{"type": "auth", "token": "guess"}')
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=30)


def test_all_that_the_service_wrote_is_its_users_own(service: TestedService) -> None:
    block_type = service.api.get("/block_types/slug/secret")["id"]
    kind = {"block_schemas": {"block_type_id": {"any_": [block_type]}}}
    schema = service.api.post("/block_schemas/filter", kind)[0]["id"]
    body = {"name": "aws", "data": {"value": "s3cr3t"}, "block_type_id": block_type}
    made = service.api.post("/block_documents/", {**body, "block_schema_id": schema})
    try:
        path = "/block_types/slug/secret/block_documents/name/aws?include_secrets=true"
        assert service.api.get(path)["data"]["value"] == "s3cr3t"
        assert service.ask("GET", path) == 401
        assert service.ask("GET", path, login=True, Origin=EVIL) == 403
        found = [service.state_dir, *service.state_dir.rglob("*")]
        names = {entry.name for entry in found}
        assert {LOGIN_NAME, "prefect.db", "service.json", "daemon.log", "server.log"} <= names
        open_to_others = [entry for entry in found if stat.S_IMODE(entry.lstat().st_mode) & 0o077]
        assert open_to_others == []
        toml = service.folder / "prefect.toml"
        assert stat.S_IMODE(toml.stat().st_mode) == 0o600
    finally:
        service.api.delete(f"/block_documents/{made['id']}")


def test_prefects_own_command_works_with_nothing_else_typed(
    service: TestedService, source_dir: Path, tmp_path: Path
) -> None:
    before = {run["id"] for run in service.api.runs()}
    options = ["-p", f"source={source_dir}", "-p", f"out={tmp_path / 'data'}"]
    done = service.prefect("deployment", "run", "stage/stage", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = {run["id"] for run in service.api.runs()} - before
    wait_for("the run", lambda: service.wait_until_final(run) == "Completed")
    assert (tmp_path / "data" / "dataset.json").stat().st_mode & 0o077  # its user's umask holds


def test_the_doctor_knows_the_login(service: TestedService) -> None:
    done = service.effnet("doctor", "--json")
    assert "1 online" in done.stdout, done.stdout


def test_what_a_shell_needs(service: TestedService) -> None:
    done = service.effnet("env")
    assert done.stdout.splitlines() == [
        f"export PREFECT_API_URL={service.api.url}",
        f"export PREFECT_API_AUTH_STRING={service.api.auth}",
    ]
    elsewhere = f"http://localhost:{service.port}/api"
    wrong = {"PREFECT_API_URL": elsewhere, "PREFECT_API_AUTH_STRING": "admin:guess"}
    done = service.effnet("run", "stage", **wrong)
    assert done.returncode == 2
    assert "wants a login; set PREFECT_API_AUTH_STRING" in done.stderr
    done = service.effnet("run", "stage", PREFECT_API_URL=service.api.url)
    assert "wants a login" not in done.stderr  # its own service's is known
