"""``prefect.toml``: ours is written and taken away, somebody else's is left alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from flows.service.client_file import NAME, remove_client_file, write_client_file
from flows.service.server import STATE_DIR_VARIABLE

SETTINGS = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_API_AUTH_STRING": 'a:b"c\\'}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STATE_DIR_VARIABLE, raising=False)
    return tmp_path


def test_ours_is_private_written_again_and_taken_away(here: Path) -> None:
    path = here / NAME
    assert write_client_file({"PREFECT_API_URL": "http://old/api"})
    path.chmod(0o644)
    assert write_client_file(SETTINGS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert 'url = "http://127.0.0.1:1/api"' in text
    assert r'auth_string = "a:b\"c\\"' in text
    remove_client_file()
    assert not path.exists()
    remove_client_file()


def test_somebody_elses_is_left_alone(here: Path) -> None:
    path = here / NAME
    path.write_text("[logging]\nlevel = 'DEBUG'\n")
    assert not write_client_file(SETTINGS)
    remove_client_file()
    assert path.read_text().startswith("[logging]")


def test_where_the_state_lies_elsewhere_nothing_is_written(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE_DIR_VARIABLE, str(here / "state"))
    assert not write_client_file(SETTINGS)
    assert list(here.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_stops_nothing(here: Path) -> None:
    (here / NAME).mkdir()
    assert not write_client_file(SETTINGS)
    (here / NAME).rmdir()
    (here / NAME).symlink_to("/proc/nowhere/at/all")
    assert write_client_file(SETTINGS)  # the link is replaced, not followed
    assert not (here / NAME).is_symlink()
