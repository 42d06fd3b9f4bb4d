"""Reading a bucket, against a real server and against one that misbehaves."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
from botocore import auth
from botocore.retries.standard import ExponentialBackoff

from effnet_core.errors import ConfigError, Conflict, StoreBusy, StoreError
from effnet_core.events import Threads
from effnet_core.storage import (
    S3Access,
    S3Url,
    list_objects,
    objects,
    parse_s3,
    ranged,
    read_object,
    s3_client,
)
from effnet_core.storage import client as client_module
from effnet_core.storage.bulk import Bulk
from effnet_core.storage.client import Credentials, in_use, key_pairs, using
from effnet_core.storage.objects import StoredObject
from tests.support.s3 import KEY_ID, SECRET, SeaweedFS

AWKWARD = ["a b+c%20?#.jpg", "e\u0301.jpg", "é.jpg", "日本/モデル.jpg", "x/y/z.jpg"]


def put(access: S3Access, bucket: str, objects: dict[str, bytes]) -> None:
    for key, data in objects.items():
        s3_client(access).put_object(Bucket=bucket, Key=key, Body=data)


# --- listing and reading --------------------------------------------------------------------------


def test_a_prefix_is_listed_in_pages_and_in_order(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(seaweedfs.access, bucket, {f"set/{n:02d}": b"x" * n for n in range(7)} | {"other": b""})
    client = s3_client(seaweedfs.access)
    real, pages = client.get_paginator, []

    def small(name: str):  # type: ignore[no-untyped-def]
        paginator = real(name)
        plain = paginator.paginate

        def paginate(**arguments):  # type: ignore[no-untyped-def]
            for page in plain(**arguments, PaginationConfig={"PageSize": 3}):
                pages.append(len(page["Contents"]))
                yield page

        monkeypatch.setattr(paginator, "paginate", paginate)
        return paginator

    monkeypatch.setattr(client, "get_paginator", small)
    found = list(list_objects(f"s3://{bucket}/set/", seaweedfs.access))
    assert [item.key for item in found] == [f"set/{n:02d}" for n in range(7)]
    assert [item.size_bytes for item in found] == list(range(7))
    assert all(len(item.etag) == 32 for item in found)
    assert pages == [3, 3, 1]


def test_awkward_keys_come_back(seaweedfs: SeaweedFS, bucket: str) -> None:
    put(seaweedfs.access, bucket, {key: key.encode() for key in AWKWARD})
    found = list(list_objects(f"s3://{bucket}", seaweedfs.access))
    assert sorted(item.key for item in found) == sorted(AWKWARD)
    for item in found:
        assert read_object(S3Url(bucket, item.key), seaweedfs.access) == item.key.encode()
        assert read_object(f"s3://{bucket}/{item.key}", seaweedfs.access) == item.key.encode()


def test_an_empty_prefix_lists_nothing(seaweedfs: SeaweedFS, bucket: str) -> None:
    assert list(list_objects(f"s3://{bucket}/none/", seaweedfs.access)) == []


def test_the_environment_says_where_the_server_is(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(seaweedfs.access, bucket, {"a": b"1"})
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs.endpoint_url)
    assert read_object(f"s3://{bucket}/a") == b"1"
    assert s3_client().meta.config.s3["addressing_style"] == "path"


def test_a_profile_says_where_the_server_is(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(seaweedfs.access, bucket, {"a": b"1"})
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {seaweedfs.endpoint_url}\n")
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert read_object(f"s3://{bucket}/a", S3Access(profile="lab")) == b"1"
    with pytest.raises(ConfigError, match=r"profile 'lob' is not in the AWS configuration"):
        read_object(f"s3://{bucket}/a", S3Access(profile="lob"))


def test_the_description_of_s3_is_read_once_for_all_clients(aws_environment: None) -> None:
    """It takes megabytes, and a worker makes a client for each pair of credentials."""
    client_module.s3_client(S3Access(endpoint_url="http://127.0.0.1:9"))
    with mock.patch("botocore.loaders.JSONFileLoader.load_file") as read:
        other = client_module.s3_client(S3Access(endpoint_url="http://127.0.0.1:99"))
    read.assert_not_called()
    assert other.meta.service_model.operation_model("PutObject").has_streaming_input


def test_a_client_is_shared_until_its_settings_change(
    seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = s3_client(seaweedfs.access)
    assert s3_client(seaweedfs.access) is first
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert s3_client(seaweedfs.access) is not first


def test_credentials_of_a_secret_store_are_used_and_not_shown(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(seaweedfs.access, bucket, {"a": b"1"})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    given = Credentials(KEY_ID, SECRET)
    assert repr(given) == "Credentials()"
    with using(given):
        assert read_object(f"s3://{bucket}/a", seaweedfs.access) == b"1"
    with pytest.raises(StoreError, match="there are no S3 credentials; set AWS_ACCESS_KEY_ID"):
        read_object(f"s3://{bucket}/a", seaweedfs.access)


def test_two_storages_at_the_same_time_have_their_own_credentials(
    moto: S3Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients of both are made while both are in use, whichever began first."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    barrier = threading.Barrier(2, timeout=10)

    def key_ids(name: str) -> list[str]:
        with using(Credentials(name, SECRET)):
            barrier.wait()
            here = key_id_of_client(moto)
            with Threads(1) as pool:
                there = pool.submit(key_id_of_client, moto).result()
            barrier.wait()
            return [here, there]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(key_ids, ("first", "second"))) == [["first"] * 2, ["second"] * 2]
    assert in_use() is None


def test_credentials_inside_others_end_with_their_block(moto: S3Access) -> None:
    outer, inner = Credentials("outer", SECRET), Credentials("inner", SECRET)
    with using(outer):
        with using(inner), using(None):
            assert key_id_of_client(moto) == "inner"
        assert key_id_of_client(moto) == "outer"
        with pytest.raises(ValueError), using(outer):
            raise ValueError
        assert in_use() is outer
    assert key_id_of_client(moto) == KEY_ID


def key_id_of_client(access: S3Access) -> str:
    current = key_pairs(s3_client(access))
    assert current is not None
    return current().access_key_id


# --- addresses ------------------------------------------------------------------------------------


def test_addresses_are_not_decoded() -> None:
    assert parse_s3("s3://bucket/a%20b?c#d e") == S3Url("bucket", "a%20b?c#d e")
    assert parse_s3("s3://bucket") == parse_s3("s3://bucket/") == S3Url("bucket", "")
    assert str(S3Url("bucket", "a").join("b")) == str(S3Url("bucket", "a/").join("b"))
    assert str(S3Url("bucket", "").join("b")) == "s3://bucket/b"


# --- refusals, one sentence each ------------------------------------------------------------------


def test_what_is_missing(seaweedfs: SeaweedFS, bucket: str, moto: S3Access) -> None:
    with pytest.raises(StoreError, match=f"s3://{bucket}/none cannot be read: the object does not"):
        read_object(f"s3://{bucket}/none", seaweedfs.access)
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/a cannot be read: the bucket does"):
        read_object("s3://no-such-bucket/a", moto)
    with pytest.raises(StoreError, match="s3://no-such-bucket cannot be listed: the bucket does"):
        list(list_objects("s3://no-such-bucket", moto))


def test_wrong_credentials(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{bucket}/a"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-wrong-secret")
    with pytest.raises(StoreError, match="secret access key does not belong to") as caught:
        read_object(url, seaweedfs.access)
    assert not caught.value.retryable
    assert "planted" not in str(caught.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-wrong-id")
    with pytest.raises(StoreError, match="the access key id is unknown to the server"):
        read_object(url, seaweedfs.access)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"the S3 credentials lack AWS_SECRET_ACCESS_KEY"):
        read_object(url, seaweedfs.access)


def test_a_wrong_clock(seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = auth.get_current_datetime
    monkeypatch.setattr(
        auth, "get_current_datetime", lambda *a, **k: plain(*a, **k) + timedelta(hours=3)
    )
    with pytest.raises(StoreError, match="the clock of this machine or of the server is wrong"):
        read_object(f"s3://{bucket}/a", seaweedfs.access)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("127.0.0.1:9", "is not an address of a server; give one that starts with http"),
        ("ftp://127.0.0.1", "is not an address of a server"),
        ("http://user:planted@127.0.0.1", r"'http://\*\*\*@127.0.0.1' holds credentials"),
    ],
)
def test_bad_endpoints(aws_environment: None, endpoint: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_object("s3://bucket/a", S3Access(endpoint_url=endpoint))
    assert "planted" not in str(caught.value)


def test_an_endpoint_of_the_environment_without_scheme(
    aws_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9")
    with pytest.raises(ConfigError, match="is not an address of a server"):
        read_object("s3://bucket/a")


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"'s3://\*\*\*@bucket/a' holds credentials") as caught:
        read_object("s3://id:planted@bucket/a")
    assert "planted" not in str(caught.value)


Answer = Callable[[http.server.BaseHTTPRequestHandler, int], None]


@pytest.fixture
def misbehaving(
    aws_environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Answer], S3Access]]:
    """Starts a server whose every answer is the test's own; gets the number of the request."""
    servers: list[http.server.ThreadingHTTPServer] = []
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(client_module, "ATTEMPTS", 2)

    def start(answer: Answer) -> S3Access:
        class Handler(http.server.BaseHTTPRequestHandler):
            count = 0

            def do_GET(self) -> None:
                type(self).count += 1
                answer(self, type(self).count)

            do_HEAD = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                """Quiet."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return S3Access(endpoint_url=f"http://127.0.0.1:{server.server_port}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def say(
    handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, size: int = -1
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if size < 0 else size))
    handler.send_header("ETag", '"0123"')
    handler.end_headers()
    handler.wfile.write(body)


def refuse(code: str, status: int = 403) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>planted words</Message></Error>".encode()
    return lambda handler, _: say(handler, status, body)


def test_a_body_that_is_cut_is_fetched_again(misbehaving: Callable[[Answer], S3Access]) -> None:
    access = misbehaving(lambda h, n: say(h, 200, b"whole" if n > 2 else b"who", size=5))
    assert read_object("s3://bucket/a", access) == b"whole"


def test_a_body_that_is_always_cut_says_so(misbehaving: Callable[[Answer], S3Access]) -> None:
    access = misbehaving(lambda h, _: say(h, 200, b"who", size=5))
    with pytest.raises(StoreBusy, match=r"s3://bucket/a cannot be read: the connection .*broke"):
        read_object("s3://bucket/a", access)


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("AccessDenied", 403, StoreError, "valid, but give no right to do this"),
        ("RequestTimeTooSkewed", 403, StoreError, "the clock of this machine or of the server"),
        ("ExpiredToken", 400, StoreError, "the session token has expired"),
        (
            "IllegalLocationConstraintException",
            400,
            StoreError,
            r"in another region; set storage\.region",
        ),
        ("PreconditionFailed", 412, Conflict, "somebody else changed it first"),
        ("SlowDown", 503, StoreBusy, r"busy or failing \(SlowDown\); try again later"),
        ("Odd", 418, StoreError, r"the server refuses it \(Odd: planted words\)"),
    ],
)
def test_refusals_are_sentences(
    misbehaving: Callable[[Answer], S3Access],
    code: str,
    status: int,
    kind: type[StoreError],
    words: str,
) -> None:
    with pytest.raises(StoreError, match=rf"^s3://bucket/a cannot be read: .*{words}") as caught:
        read_object("s3://bucket/a", misbehaving(refuse(code, status)))
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind is StoreBusy)


def test_a_refusal_is_not_tried_again_and_a_busy_server_is(
    misbehaving: Callable[[Answer], S3Access],
) -> None:
    counts: list[int] = []

    def counted(answer: Answer) -> Answer:
        def one(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
            counts.append(number)
            answer(handler, number)

        return one

    with pytest.raises(StoreError):
        read_object("s3://bucket/a", misbehaving(counted(refuse("AccessDenied"))))
    assert counts == [1]
    counts.clear()
    with pytest.raises(StoreBusy):
        list(list_objects("s3://bucket/a", misbehaving(counted(refuse("SlowDown", 503)))))
    assert counts == [1, 2]


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>Welcome</body></html>",
        b"",
        b"<ListBucketResult/>",
        b"<R><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></R>",
        b"<R><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>many</Size>"
        b"<LastModified>now</LastModified><ETag>e</ETag></Contents></R>",
    ],
)
def test_an_endpoint_that_is_not_s3(misbehaving: Callable[[Answer], S3Access], body: bytes) -> None:
    access = misbehaving(lambda h, _: say(h, 200, body))
    with pytest.raises(
        StoreError, match=r"s3://bucket cannot be listed: .*does not answer as S3 does"
    ):
        list(list_objects("s3://bucket", access))


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_web_server_is_no_object_store(
    misbehaving: Callable[[Answer], S3Access], status: int
) -> None:
    """It answers in HTML and without the codes that every S3 server sends."""
    access = misbehaving(lambda h, _: say(h, status, b"<html><body>sorry</body></html>"))
    words = r"does not answer as S3 does; is the endpoint right \(storage.endpoint_url"
    with pytest.raises(StoreError, match=rf"^s3://bucket/x cannot be listed: .*{words}"):
        list(list_objects(S3Url("bucket", "x"), access))
    with pytest.raises(StoreError, match=rf"^s3://bucket/a cannot be written: .*{words}"):
        Bulk("bucket", access).put("a", b"x")


def test_nobody_answers(aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(client_module, "ATTEMPTS", 1)
    with pytest.raises(StoreBusy, match=r"the server http://127.0.0.1:9 cannot be reached; is it"):
        read_object("s3://bucket/a", S3Access(endpoint_url="http://127.0.0.1:9"))


def test_http_where_https_is_asked(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ATTEMPTS", 1)
    access = S3Access(endpoint_url=seaweedfs.endpoint_url.replace("http:", "https:"))
    with pytest.raises(StoreError, match=r"no secure connection to https.*speak http instead"):
        read_object("s3://bucket/a", access)


# --- large objects, in parts ----------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "PART_BYTES", 1000)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 25_400])
def test_an_object_in_parts(
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
    small_parts: None,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    native: bool,
) -> None:
    if native and size:  # without it, it would be boto3 that answers
        s3_client(seaweedfs.access)
        monkeypatch.setattr(ranged, "s3_client", lambda *_: pytest.fail("boto3"))
    elif not native:
        monkeypatch.setattr(Bulk, "copy_range", lambda *_: False)
    data = bytes(range(256)) * (size // 256 + 1)
    put(seaweedfs.access, bucket, {"big": data[:size]})
    path = tmp_path / "big"
    found = ranged.fetch(S3Url(bucket, "big"), path, seaweedfs.access, resume=True)
    assert path.read_bytes() == data[:size]
    assert (found.key, found.size_bytes) == ("big", size)
    assert [p.name for p in tmp_path.iterdir()] == ["big"]


def test_parts_that_have_arrived_are_not_fetched_again(
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
    small_parts: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytes(range(256)) * 40
    put(seaweedfs.access, bucket, {"big": data})
    place, path = S3Url(bucket, "big"), tmp_path / "big"
    real, seen = Bulk.copy_range, []

    def failing(bulk: Bulk, found: StoredObject, start: int, stop: int, handle: int) -> bool:
        part = start // ranged.PART_BYTES
        if part == 6 and 6 not in seen:
            seen.append(part)
            raise StoreError("cut")
        seen.append(part)
        return real(bulk, found, start, stop, handle)

    monkeypatch.setattr(Bulk, "copy_range", failing)
    with pytest.raises(StoreError, match="cut"):
        ranged.fetch(place, path, seaweedfs.access, resume=True)
    arrived = {int(line) for line in Path(f"{path}.parts").read_text().splitlines()[1:]}
    assert arrived and 6 not in arrived
    seen[:] = [6]
    ranged.fetch(place, path, seaweedfs.access, resume=True)
    assert set(seen[1:]) == set(range(11)) - arrived
    assert path.read_bytes() == data


def test_parts_of_a_replaced_object_are_thrown_away(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path, small_parts: None
) -> None:
    put(seaweedfs.access, bucket, {"big": b"old" * 1000})
    place, path = S3Url(bucket, "big"), tmp_path / "big"
    old = objects.require_object(place, seaweedfs.access)
    put(seaweedfs.access, bucket, {"big": b"new" * 1000})
    with pytest.raises(Conflict, match="big was replaced while it was read; start again"):
        ranged.fetch(place, path, seaweedfs.access, expected=old, resume=True)
    ranged.fetch(place, path, seaweedfs.access, resume=True)
    assert path.read_bytes() == b"new" * 1000
