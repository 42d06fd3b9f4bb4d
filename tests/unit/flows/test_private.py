"""The state folder: private to its user, the login in it made once, foreign folders refused."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet_core.errors import ConfigError, DataError
from flows.service import private
from flows.service.private import login_of, private_folder

NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user of the machine can walk into; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_what_was_open_is_closed_and_reported(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, elsewhere = place / "state", place / "elsewhere"
    (state / "deep").mkdir(parents=True)
    for path in (state / "prefect.db", state / "deep" / "key", elsewhere):
        path.write_text("secret")
        path.chmod(0o664)
    (state / "link").symlink_to(elsewhere)
    assert private_folder(state, what="state folder") == state
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "deep").stat().st_mode) == 0o700
    for name in ("prefect.db", "deep/key"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o664  # links are not followed
    assert "was open to other users" in capsys.readouterr().err
    private_folder(state, what="state folder")
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_another_user_reads_nothing(place: Path) -> None:
    state = place / "state"
    state.mkdir()
    (state / "prefect.db").write_text("secret")

    def read() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["cat", str(state / "prefect.db")],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            check=False,
            capture_output=True,
            text=True,
        )

    assert read().stdout == "secret"
    private_folder(state, what="state folder")
    assert read().stdout == ""
    assert "Permission denied" in read().stderr
    (state / "prefect.db").chmod(0o644)  # the folder alone is enough
    assert read().stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away takes root")
def test_a_folder_of_another_user_is_refused(place: Path) -> None:
    os.chown(place, NOBODY, NOBODY)
    with pytest.raises(DataError, match=f"belongs to user {NOBODY}.*this is user 0"):
        private_folder(place, what="state folder")


def test_a_file_system_without_rights_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private.os, "chmod", lambda *_: None)
    with pytest.raises(DataError, match="keeps no rights"):
        private_folder(place, what="state folder")


def test_a_new_folder_is_private_whatever_the_umask(place: Path) -> None:
    before = os.umask(0)
    try:
        made = private_folder(place / "a" / "state", what="state folder")
        login_of(made)
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE((made / "login").stat().st_mode) == 0o600


def test_the_login_is_made_once(place: Path) -> None:
    logins: list[str] = []
    threads = [threading.Thread(target=lambda: logins.append(login_of(place))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(logins)) == 1
    name, _, secret = logins[0].partition(":")
    assert name == "effnet"
    assert len(secret) >= 43  # 256 bits
    assert [path.name for path in place.iterdir()] == ["login"]
    (place / "login").unlink()
    assert login_of(place) != logins[0]


def test_a_login_of_ones_own(place: Path) -> None:
    assert login_of(place, "admin:pass:word") == "admin:pass:word"
    assert login_of(place) == "admin:pass:word"
    for wrong in ("", "admin", ":x", "x:", "admin:pässword", "a:b\nc"):
        with pytest.raises(ConfigError, match="USER:PASSWORD in ASCII"):
            login_of(place, wrong)
    assert login_of(place) == "admin:pass:word"
