"""Listing without boto3: the same answer, and boto3's where it cannot be had."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from effnet_core.errors import StoreError
from effnet_core.storage import S3Access, S3Url, list_objects, objects, s3_client
from effnet_core.storage.client import Credentials, Reach
from effnet_core.storage.objects import list_all
from tests.support.s3 import SeaweedFS, new_bucket

AWKWARD = (
    *(
        "a b+c%20?#&=.jpg",
        "e\u0301.jpg",
        "é.jpg",
        "日本/モデル.jpg",
        "x/y/z.jpg",
        " lead",
        "trail ",
    ),
    *("<&>\"'.jpg", "~*!'().jpg", "empty", "folder/", "double//slash", "tab\tnew\rline"),
)


@pytest.fixture
def without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "list_objects", lambda *_: pytest.fail("boto3 was asked"))


def fill(access: S3Access, bucket: str, keys: tuple[str, ...]) -> None:
    for key in keys:
        body = b"" if key in ("empty", "folder/") else key.encode()
        s3_client(access).put_object(Bucket=bucket, Key=f"set 1/{key}", Body=body)


@pytest.mark.parametrize("page", [3, 1000])
def test_the_same_as_boto3(
    seaweedfs: SeaweedFS,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    without_boto3: None,
    page: int,
) -> None:
    monkeypatch.setattr(objects, "PAGE", page)
    fill(seaweedfs.access, bucket, AWKWARD)
    for key in ("set 1/", "set 1", "", "none/"):
        place = S3Url(bucket, key)
        assert list_all(place, seaweedfs.access) == list(list_objects(place, seaweedfs.access))


def test_keys_that_lead_elsewhere_come_as_they_are(moto: S3Access, without_boto3: None) -> None:
    bucket = new_bucket(moto)
    fill(moto, bucket, ("../outside", "/absolute", "a/./b", "full/"))
    place = S3Url(bucket, "set 1/")
    assert list_all(place, moto) == list(list_objects(place, moto))


def test_a_refusal_is_told_in_boto3s_words(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="the bucket does not exist"):
        list_all(S3Url("test-none", ""), seaweedfs.access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    with pytest.raises(StoreError, match="secret access key does not belong") as caught:
        list_all(S3Url(bucket, ""), seaweedfs.access)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("token", [None, "token/+="])
def test_requests_are_signed_as_boto3_signs_them(token: str | None) -> None:
    pair = Credentials("id", "secret", token)
    server = Reach("http://127.0.0.1:9", "eu-west-1", lambda: pair)
    search = "list-type=2&prefix=a%20b%2F%C3%A9"
    headers = objects._signed("/bucket", search, "127.0.0.1:9", server)
    told = headers.pop("authorization")
    request = AWSRequest("GET", f"http://127.0.0.1:9/bucket?{search}", headers=headers)
    request.context["timestamp"] = headers["x-amz-date"]
    theirs = BotocoreCredentials("id", "secret", token)
    signer = S3SigV4Auth(theirs, "s3", "eu-west-1")
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert told == (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, "
        f"SignedHeaders={';'.join(headers)}, Signature={signer.signature(text, request)}"
    )


ANSWERS = [
    b"<html>hello</html>",
    b"no xml",
    b"<ListBucketResult/>",
    b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    b"<R><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></R>",
    b"<R><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>many</Size>"
    b"<LastModified>now</LastModified><ETag>e</ETag></Contents></R>",
]


@pytest.fixture(params=ANSWERS)
def odd_server(request: pytest.FixtureRequest, aws_environment: None) -> Iterator[S3Access]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(request.param)))
            self.end_headers()
            self.wfile.write(request.param)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield S3Access(endpoint_url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def test_an_answer_that_is_not_understood_is_asked_of_boto3(
    odd_server: S3Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "list_objects", lambda *_: iter("boto3"))
    assert list_all(S3Url("bucket", ""), odd_server) == list("boto3")
