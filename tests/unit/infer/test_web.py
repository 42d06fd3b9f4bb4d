"""Lists of addresses of the web: limits, further tries, no private networks, the rows of the folder."""

from __future__ import annotations

import http.server
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from effnet_core.config.schema import InferConfig, RunConfig, StorageConfig
from effnet_core.data.images import ImageProblem
from effnet_core.errors import DataError
from effnet_core.infer import web
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.parts import read_parts
from effnet_core.infer.plan import plan
from effnet_core.infer.readers import open_reader
from effnet_core.infer.shards import predict_shards
from effnet_core.infer.web import WebReader
from effnet_core.weights.web import PRIVATE_VARIABLE
from tests.support.fakes import BrightnessPredictor, predict_job
from tests.support.images import draw, encode

PICTURE = encode(draw(40, 30))


class Site(http.server.ThreadingHTTPServer):
    """Pictures, and every way not to get one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    """One answer."""

    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        site = self.server
        with site.lock:
            site.asked[self.path] += 1
            site.headers.append(dict(self.headers))
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
        try:
            self.answer(self.path.partition("?")[0], site.asked[self.path])
        finally:
            with site.lock:
                site.at_once -= 1

    def answer(self, path: str, time_asked: int) -> None:
        name = path.rpartition("/")[2]
        known = {
            "busy.png": (503, b"", ("Retry-After", "0")),
            "always-busy.png": (500, b""),
            "gone.png": (404, b""),
            "moved.png": (302, b"", ("Location", "/a/0.png")),
            "round.png": (302, b"", ("Location", "/round.png")),
            "away.png": (302, b"", ("Location", "ftp://elsewhere/x.png")),
            "large.png": (200, b"x" * 3_000_000),
        }
        if name == "endless.png":
            self.begin()
            for _ in range(2000):
                self.wfile.write(b"x" * 10_000)
        elif name == "cut.png" and time_asked == 1:
            self.begin(("Content-Length", str(len(PICTURE))))
            self.wfile.write(PICTURE[:20])
        elif name in known and not (name == "busy.png" and time_asked > 2):
            self.send(*known[name])
        else:
            time.sleep(1.1 if name == "slow.png" else 0.02)
            self.send(200, PICTURE)

    def begin(self, *headers: tuple[str, str]) -> None:
        self.send_response(200)
        for name, value in (*headers, ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()

    def send(self, status: int, content: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(web, "FIRST_WAIT_S", 0.05)
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def reader(site: Site, **settings: Any) -> WebReader:
    given = {"http_timeout_s": 0.6, "http_max_mb": 2, "http_tries": 3, **settings}
    found = open_reader(f"{site.url}/", StorageConfig(), infer=InferConfig(**given))
    assert isinstance(found, WebReader)
    return found


@pytest.mark.parametrize("name", ["a/0.png", "busy.png", "moved.png", "cut.png", "a/0.png?size=x"])
def test_pictures_arrive_also_at_the_second_try(site: Site, name: str) -> None:
    assert reader(site).read(name) == PICTURE
    assert all(headers["User-Agent"] == "effnet-flows" for headers in site.headers)


@pytest.mark.parametrize(
    ("name", "words", "times"),
    [
        ("gone.png", "the server answers 404", 1),
        ("always-busy.png", r"the server answers 500 \(tried 3 times\)", 3),
        ("large.png", r"larger than 2.0 MB \(infer.http_max_mb\)", 1),
        ("endless.png", "larger than 2.0 MB", 1),
        ("round.png", "leads on more than 5 times", 5),
        ("away.png", "is not an http or https address", 1),
        ("slow.png", r"no answer within 0.6 s \(tried 3 times\)", 3),
    ],
)
def test_what_does_not_arrive_has_a_reason(site: Site, name: str, words: str, times: int) -> None:
    with pytest.raises(ImageProblem, match=words):
        reader(site).read(name)
    assert site.asked[f"/{name}"] == times


def test_nothing_is_asked_of_a_private_network(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRIVATE_VARIABLE)
    with pytest.raises(ImageProblem, match=f"not a public address; set {PRIVATE_VARIABLE}=1"):
        reader(site).read("a/0.png")
    assert not site.asked
    # A name that is public when it is looked up, and leads here when it is connected to.
    monkeypatch.setattr(web, "require_allowed", lambda url, _: urlsplit(url))
    with pytest.raises(ImageProblem, match="not a public address"):
        reader(site).read("a/0.png")
    assert not site.asked


def test_nobody_is_there() -> None:
    nowhere = WebReader("http://127.0.0.1:9/", InferConfig(http_tries=1))
    with pytest.raises(ImageProblem, match=r"cannot be fetched \(.*\) \(tried 1 times\)"):
        nowhere.read("x.png")


def test_a_list_of_addresses_is_labelled_with_its_columns(site: Site, tmp_path: Path) -> None:
    names = ["a/0.png", "b/1.png?v=2", "gone.png", "busy.png"]
    lines = [f"{number},{site.url}/{name}" for number, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["id,uri", *lines]))
    settings = {"keep_columns": ("id",), "max_error_share": 1.0, "readers": 2, "decoders": 0}
    infer = InferConfig(http_tries=3, http_timeout_s=5, **settings)
    listed = list_inputs([tmp_path / "list.csv"], tmp_path / "out", keep=("id",))
    assert listed.root == f"{site.url}/"
    planned = plan(listed, tmp_path / "out", model_sha256="m", infer=infer)
    job = predict_job(planned, allowed_errors=9)
    result = predict_shards(BrightnessPredictor(), job, RunConfig(infer=infer))
    rows = read_parts(tmp_path / "out")
    assert [(row["path"], row["id"]) for row in rows] == [
        ("a/0.png", "0"),
        ("b/1.png?v=2", "1"),
        ("busy.png", "3"),
    ]
    assert result["shards"][0]["rejected"] == 1
    assert site.most_at_once <= 2


def test_addresses_on_the_command_line(site: Site, tmp_path: Path) -> None:
    listed = list_inputs([f"{site.url}/a/0.png", f"{site.url}/b/1.png"], tmp_path / "out")
    assert (listed.root, listed.paths) == (f"{site.url}/", ("a/0.png", "b/1.png"))
    one = list_inputs([f"{site.url}/a/0.png"], tmp_path / "out")
    assert (one.root, one.paths) == (f"{site.url}/a/", ("0.png",))


def test_lists_of_two_kinds_are_refused(tmp_path: Path) -> None:
    for second in ("photo.jpg", "http://a.example/x.jpg"):
        (tmp_path / "list.txt").write_text(f"https://a.example/x.jpg\n{second}\n")
        with pytest.raises(DataError, match="make a list of each"):
            list_inputs([tmp_path / "list.txt"], tmp_path / "out")
