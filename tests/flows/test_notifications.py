"""A failed run sends one message: a real automation, a real block, a real receiver."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.service.automations import bring_automations
from tests.flows.service import ROOT, TestedService, wait_for

pytestmark = pytest.mark.prefect

WEBHOOK = ROOT / "deployments" / "automations" / "webhook.yaml"
MAKE_BLOCK = (
    "import sys; from prefect.blocks.webhook import Webhook; "
    "Webhook(url=sys.argv[1], allow_private_urls=True).save('failures', overwrite=True)"
)


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address, and the JSON documents that were posted to it."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            document = json.loads(text)
            received.append(json.loads(document) if isinstance(document, str) else document)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_automation_that_lacks_its_block_says_so(service: TestedService) -> None:
    deployed = service.api.post("/variables/filter")
    slack = ROOT / "deployments" / "automations" / "slack.yaml"
    done = service.effnet("deploy", "--automations", str(slack))
    assert done.returncode == 2
    assert "no block 'failures' of type 'slack-webhook'; make it first" in done.stderr
    done = service.effnet("deploy", "--automations", str(ROOT / "README.md"))
    assert done.returncode == 2
    assert "is not a file of automations" in done.stderr
    assert service.api.post("/variables/filter") == deployed  # the record of what was deployed


def test_a_failed_run_sends_one_message(
    service: TestedService, source_dir: Path, tmp_path: Path
) -> None:
    with receiver() as (url, received):
        subprocess.run(
            [sys.executable, "-c", MAKE_BLOCK, url],
            env=service.for_clients(),
            check=True,
            timeout=120,
        )
        done = service.effnet("deploy", "--automations", str(WEBHOOK))
        assert done.returncode == 0, done.stderr
        assert "automation: post failures to a webhook" in done.stdout
        bring_automations(service.api, WEBHOOK)  # again is harmless
        named = [item["name"] for item in service.api.post("/automations/filter")]
        assert named.count("post failures to a webhook") == 1

        parameters = {"source": str(tmp_path / "nowhere"), "out": str(tmp_path / "out")}
        failed = service.start_run("stage/stage", parameters)
        assert service.wait_until_final(failed) == "Failed"
        wait_for("a message", lambda: received, seconds=60)
        parameters = {"source": str(source_dir), "out": str(tmp_path / "good")}
        assert service.wait_until_final(service.start_run("stage/stage", parameters)) == "Completed"
        again = service.start_run("stage/stage", {**parameters, "source": "/nowhere"})
        assert service.wait_until_final(again) == "Failed"
        wait_for("the second message", lambda: len(received) > 1, seconds=60)
    first, second = received
    run = service.api.run(failed)
    assert (first["run"], first["state"]) == (run["name"], "Failed")
    assert "nowhere" in first["message"]
    assert first["url"].endswith(failed)
    assert second["url"].endswith(again)
