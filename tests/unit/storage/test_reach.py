"""How a server is reached: what is read from variables is what boto3 reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core.storage.client import (
    Credentials,
    S3Access,
    reach,
    reach_by_environment,
    s3_client,
    using,
)

SERVER = "http://127.0.0.1:9"
PAIR = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "planted-secret"}

SAID_BY_VARIABLES = [
    ({"AWS_ENDPOINT_URL": SERVER}, S3Access()),
    ({"AWS_ENDPOINT_URL": "http://other", "AWS_ENDPOINT_URL_S3": SERVER}, S3Access()),
    ({"AWS_ENDPOINT_URL": SERVER, "AWS_ENDPOINT_URL_S3": ""}, S3Access()),
    ({"AWS_ENDPOINT_URL": "http://other"}, S3Access(endpoint_url=f"{SERVER}/")),
    ({}, S3Access(endpoint_url=SERVER, region="eu-west-1")),
    ({"AWS_DEFAULT_REGION": "eu-west-1"}, S3Access(endpoint_url=SERVER)),
    ({"AWS_DEFAULT_REGION": "eu-west-1"}, S3Access(endpoint_url=SERVER, region="eu-west-2")),
    ({"AWS_DEFAULT_REGION": ""}, S3Access(endpoint_url=SERVER)),
    ({"AWS_REGION": "eu-west-1"}, S3Access(endpoint_url=SERVER)),
    ({"AWS_SESSION_TOKEN": "token"}, S3Access(endpoint_url=SERVER)),
    ({"AWS_SECURITY_TOKEN": "first", "AWS_SESSION_TOKEN": "b"}, S3Access(endpoint_url=SERVER)),
]

BOTO3_HAS_TO_SAY = [
    ({"AWS_PROFILE": "lab"}, S3Access(endpoint_url=SERVER)),
    ({}, S3Access(endpoint_url=SERVER, profile="lab")),
    ({}, S3Access()),
    ({}, S3Access(endpoint_url="https://s3.eu-west-1.amazonaws.com")),
    ({}, S3Access(endpoint_url="http://user:word@127.0.0.1")),
    ({}, S3Access(endpoint_url="127.0.0.1:9")),
    ({}, S3Access(endpoint_url="http://127.0.0.1:port")),
    ({}, S3Access(endpoint_url=f"{SERVER}/below")),
    ({"AWS_SECRET_ACCESS_KEY": ""}, S3Access(endpoint_url=SERVER)),
    ({"AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"}, S3Access(endpoint_url=SERVER)),
    ({"AWS_ENDPOINT_URL": SERVER, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, S3Access()),
    ({"https_proxy": "http://proxy"}, S3Access(endpoint_url=SERVER)),
]


def surround(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in {**PAIR, **variables}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("variables", "access"), SAID_BY_VARIABLES)
def test_variables_are_read_as_boto3_reads_them(
    aws_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    access: S3Access,
) -> None:
    surround(monkeypatch, variables)
    found, client = reach_by_environment(access), s3_client(access)
    assert found is not None
    assert found.endpoint_url == client.meta.endpoint_url
    assert found.region == client.meta.region_name
    theirs = client._get_credentials().get_frozen_credentials()  # type: ignore[attr-defined]
    assert found.credentials() == Credentials(theirs.access_key, theirs.secret_key, theirs.token)
    assert "planted" not in repr(found)


@pytest.mark.parametrize(("variables", "access"), BOTO3_HAS_TO_SAY)
def test_what_variables_do_not_say_is_left_to_boto3(
    aws_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    access: S3Access,
) -> None:
    surround(monkeypatch, variables)
    assert reach_by_environment(access) is None


def test_a_configuration_file_may_name_the_region(
    aws_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    surround(monkeypatch, {"AWS_CONFIG_FILE": str(tmp_path / "config")})
    (tmp_path / "config").write_text("[default]\nregion = eu-west-3\n")
    access = S3Access(endpoint_url=SERVER)
    assert reach_by_environment(access) is None
    found = reach(access)
    assert found is not None
    assert found.region == "eu-west-3"
    assert found.credentials() == Credentials("id", "planted-secret")


def test_credentials_of_a_secret_store_come_first(
    aws_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    surround(monkeypatch, {})
    access = S3Access(endpoint_url=SERVER)
    with using(Credentials("other", "pair")):
        found = reach_by_environment(access)
    assert found is not None
    assert found.credentials() == Credentials("other", "pair")
