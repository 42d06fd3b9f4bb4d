"""``make audit``: what was found, nothing known and no database reached are told apart."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "audit.py"
LOCK = "".join(f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64}\n" for name in ("sound", "holed"))
HOLE = {
    "id": "PYSEC-2026-1",
    "summary": "a hole",
    "affected": [
        {
            "package": {"name": "holed", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@contextmanager
def osv(*vulnerable: str) -> Iterator[str]:
    """The address of a server that answers as OSV does and knows a hole in the packages named."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = question["package"]["name"] in vulnerable
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": [HOLE]} if known else {}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audit(lock: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(lock), "--osv-url", url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text(LOCK)
    return path


@pytest.mark.costly
def test_a_vulnerability_is_named_with_the_version_that_mends_it(lock: Path) -> None:
    with osv("holed") as url:
        done = audit(lock, url)
    assert done.returncode == 1, done.stderr
    assert "holed 1.0: PYSEC-2026-1, fixed in 1.1" in done.stdout
    assert "2 packages compared, 1 known vulnerabilities" in done.stdout


@pytest.mark.costly
def test_nothing_known_is_a_success(lock: Path) -> None:
    with osv() as url:
        done = audit(lock, url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 packages compared, 0 known vulnerabilities" in done.stdout


@pytest.mark.costly
def test_a_database_out_of_reach_is_neither(lock: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # not listening: a connection is refused
        done = audit(lock, f"http://127.0.0.1:{unused.getsockname()[1]}/v1/query")
    assert (done.returncode, done.stderr) == (69, "")
    assert "NOT compared: no vulnerability database was reached" in done.stdout


@pytest.mark.costly
def test_a_lock_without_hashes_is_a_failure_of_its_own(lock: Path) -> None:
    lock.write_text("sound==1.0\n")
    with osv() as url:
        done = audit(lock, url)
    assert done.returncode == 70, done.stdout
    assert "pip-audit failed" in done.stdout
