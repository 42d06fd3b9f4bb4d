"""The dashboard in a real browser: start from the form, watch, read, cancel."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from flows.service.server import login_link
from tests.flows.service import TestedService, processes_naming, wait_for
from tests.support.services import missing

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore, pytest.mark.slow]

PATIENCE_MS = 90_000
RULES = "MAP evil.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
OPTIONS = ["--no-sandbox", f"--host-resolver-rules={RULES}"]
SCREENSHOTS_VARIABLE = "EFFNET_SCREENSHOTS"
"""A folder for what the browser saw; the test's own temporary one by default."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", how="apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=OPTIONS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, service: TestedService, screenshots: Path) -> Iterator[Page]:
    """A page of a browser that reaches this machine only, logged in by the link of ``effnet up``."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    opened.goto(login_link(service.api.url, service.api.auth))
    opened.wait_for_url("**/dashboard**")
    yield opened
    opened.screenshot(path=screenshots / "last.png")  # what a failed test saw
    opened.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get(SCREENSHOTS_VARIABLE) or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(
        "model: {variant: efficientnet_tiny, bn_momentum: 0.9}\n"
        "data: {image_size: 32, global_batch_size: 8}\n"
        "schedule: {warmup_epochs: 1}\n"
        "train: {epochs: 3, log_every_steps: 1}\n"
    )
    return path


def start_from_the_form(page: Page, service: TestedService, data: Path, recipe: Path) -> str:
    """Fill the run form of train-b0; returns the new run's id."""
    deployment = service.api.get("/deployments/name/train/train-b0")
    before = {run["id"] for run in service.api.runs()}
    page.goto(f"{service.url}/v2/deployments/deployment/{deployment['id']}/run")
    page.get_by_role("heading", name="Parameters").wait_for()
    page.get_by_label("Select variant").click()
    page.get_by_role("option", name="as in recipe").click()
    submit(page, data=str(data), recipe=str(recipe))

    def new() -> set[str]:
        return {run["id"] for run in service.api.runs()} - before

    (run,) = wait_for("the run that the form started", new)
    return str(run)


def submit(page: Page, *, data: str, recipe: str) -> None:
    """Fill in and send the form, once its own defaults have arrived."""
    fields = page.locator("textarea")
    expect(fields.nth(1)).to_have_value("auto")
    page.wait_for_load_state("networkidle")
    fields.nth(0).fill(data)
    fields.nth(1).fill(recipe)
    expect(fields.nth(0)).to_have_value(data)
    expect(fields.nth(1)).to_have_value(recipe)
    page.get_by_role("button", name="Submit").click()


def test_a_training_from_the_form(
    page: Page, service: TestedService, data_dir: Path, recipe: Path, screenshots: Path
) -> None:
    run = start_from_the_form(page, service, data_dir, recipe)
    page.goto(f"{service.url}/v2/runs/flow-run/{run}?tab=Artifacts")
    page.get_by_text("Completed").first.wait_for()
    assert service.wait_until_final(run) == "Completed"
    page.reload()
    page.get_by_text("training-epochs").first.wait_for()
    page.screenshot(path=screenshots / "run.png")
    body = {"artifacts": {"flow_run_id": {"any_": [run]}}}
    artifacts = {item["key"]: item["id"] for item in service.api.post("/artifacts/filter", body)}
    page.goto(f"{service.url}/v2/artifacts/artifact/{artifacts['training']}")
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 300
    page.get_by_role("heading", name="top-1").wait_for()
    page.screenshot(path=screenshots / "training.png", full_page=True)
    page.goto(f"{service.url}/v2/artifacts/artifact/{artifacts['training-epochs']}")
    page.get_by_text("validation loss").first.wait_for()
    page.screenshot(path=screenshots / "epochs.png")


def test_the_form_refuses_and_offers_lists(
    page: Page, service: TestedService, screenshots: Path
) -> None:
    deployment = service.api.get("/deployments/name/train/train-b0")
    before = len(service.api.runs())
    page.goto(f"{service.url}/v2/deployments/deployment/{deployment['id']}/run")
    page.get_by_role("heading", name="Parameters").wait_for()
    page.screenshot(path=screenshots / "form.png", full_page=True)
    page.get_by_label("Select variant").click()
    for name in ("efficientnet_b7", "efficientnet_lite4", "efficientnet_v2_l"):
        page.get_by_role("option", name=name).wait_for()
    page.keyboard.press("Escape")
    submit(page, data="data", recipe="digit")
    page.get_by_text("does not match").first.wait_for()
    assert len(service.api.runs()) == before


def test_cancelling_on_the_page(
    page: Page,
    service: TestedService,
    data_dir: Path,
    tmp_path: Path,
    screenshots: Path,
) -> None:
    run_dir = tmp_path / "run"
    run = service.start_training(data_dir, run_dir, epochs=500)
    service.wait_for_epoch(run_dir, 1)
    page.goto(f"{service.url}/v2/runs/flow-run/{run}?tab=Logs")
    page.get_by_text("images/s").first.wait_for()
    page.screenshot(path=screenshots / "logs.png")
    page.locator("button[aria-haspopup=menu]").last.click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("button", name="Cancel Flow Run").click()
    assert service.wait_until_final(run) == "Cancelled"
    wait_for("the processes to end", lambda: not processes_naming(run_dir), seconds=15)
    page.reload()
    page.get_by_text("Cancelled").first.wait_for()


class Stranger:
    """A web server of somebody else, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stranger.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(
                    b"<!doctype html><title>Kittens</title><iframe name=target></iframe>"
                )

            def log_message(self, *arguments: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://evil.example:{self.server.server_port}"


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    made = Stranger()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


ATTACK = """
async ([api, run]) => {
    const body = JSON.stringify({name: 'drive-by', job_variables: {command: 'sh -c id'}});
    const answer = async (options) => {
        try { return (await fetch(api + run, {method: 'POST', body, ...options})).type; }
        catch (error) { return 'refused'; }
    };
    const socket = await new Promise(resolve => {
        const made = new WebSocket(api.replace('http', 'ws') + '/events/out', 'prefect');
        made.onopen = () => resolve('open');
        made.onerror = made.onclose = () => resolve('refused');
    });
    const form = document.createElement('form');
    Object.assign(form, {method: 'post', action: api + run, enctype: 'text/plain', target: 'target'});
    document.body.append(form);
    form.submit();
    return [
        await answer({headers: {'Content-Type': 'application/json'}, credentials: 'include'}),
        await answer({headers: {'Content-Type': 'text/plain'}}),
        await answer({mode: 'no-cors'}),
        await fetch(api + '/admin/settings').then(() => 'read', () => 'refused'),
        socket,
    ];
}
"""


def test_a_strangers_page_does_nothing(
    page: Page, service: TestedService, stranger: Stranger, screenshots: Path
) -> None:
    """In the browser that is logged in, by another origin and by a name that points to this machine."""
    deployment = service.api.get("/deployments/name/stage/stage")
    run = f"/deployments/{deployment['id']}/create_flow_run"
    before = {item["id"] for item in service.api.runs()}
    page.goto(stranger.url)
    answers = page.evaluate(ATTACK, [service.api.url, run])
    # "opaque" means that the page cannot see what it was answered, which was a refusal
    assert answers == ["refused", "refused", "opaque", "refused", "refused"]
    rebound = service.url.replace("127.0.0.1", "evil.example")
    answer = page.goto(f"{rebound}/v2/dashboard")
    assert answer is not None
    assert answer.status == 400
    answers = page.evaluate(ATTACK, [f"{rebound}/api", run])
    assert answers[-1] == "refused"
    assert {item["id"] for item in service.api.runs()} == before


def test_texts_of_others_fetch_nothing_and_run_nothing(
    page: Page, service: TestedService, stranger: Stranger, screenshots: Path
) -> None:
    """A class, a file or a person may be called anything, and it is shown on the dashboard."""
    text = (
        f"# Report\n\n![x]({stranger.url}/a.png) <img src='{stranger.url}/b.png' "
        f"onerror='document.title=1'> <script>document.title=1</script> "
        f"<iframe src='{stranger.url}/c'></iframe>"
    )
    body = {"key": "report", "type": "markdown", "data": text}
    made = service.api.post("/artifacts/", body)
    for ui in ("/v2", ""):
        page.goto(f"{service.url}{ui}/artifacts/artifact/{made['id']}")
        page.get_by_role("heading", name="Report").first.wait_for()
        page.wait_for_load_state("networkidle")
        page.screenshot(path=screenshots / "foreign.png")
        assert page.title() != "1"
    assert stranger.asked == []
