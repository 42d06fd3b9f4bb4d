"""What another user may have put into a cache is not used."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_core.errors import DataError
from effnet_core.storage import cache, ownership
from effnet_core.storage.ownership import make_own_folder, require_own


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a path another user's: really where this is root, else by being somebody else."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
        else:
            uid = os.geteuid() + 1
            monkeypatch.setattr("os.geteuid", lambda: uid)

    return give


def check(path: Path) -> None:
    require_own(path, what="cache", remedy="choose another")


def test_what_is_ours_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check(tmp_path / "file")
    check(tmp_path / "new" / "file")


@pytest.mark.parametrize("name", ["folder/file", "folder"])
def test_what_belongs_to_another_user_is_refused(
    name: str, tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    give_away(tmp_path / name)
    with pytest.raises(DataError, match=r"is not used: .* belongs to .*uid .*; choose another"):
        check(tmp_path / "folder" / "file")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_what_others_can_write_to_is_refused(mode: int, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    tmp_path.parent.parent.chmod(0o755)
    inner = tmp_path / "open" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(mode)
    with pytest.raises(DataError, match=f"other users can write to {tmp_path}/open; chmod go-w"):
        check(inner / "file")
    inner.chmod(0o700)  # theirs could still take its place
    with pytest.raises(DataError, match="other users can write to"):
        check(inner / "file")
    inner.parent.chmod(mode | stat.S_ISVTX)
    check(inner / "file")


@pytest.mark.parametrize(
    ("gid", "name", "members", "private"),
    [
        (1000, "ann", [], True),
        (1000, "ann", ["ann"], True),
        (1000, "ann", ["ann", "bob"], False),
        (1000, "users", [], False),
        (100, "ann", [], False),
    ],
)
def test_the_group_of_one_person_is_nobody_else(
    gid: int,
    name: str,
    members: list[str],
    private: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = pwd.struct_passwd(("ann", "x", os.geteuid(), 1000, "", "/home/ann", "/bin/sh"))
    monkeypatch.setattr(ownership.pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(
        ownership.grp, "getgrgid", lambda _: grp.struct_group((name, "x", gid, members))
    )
    assert ownership.is_private_group(gid) is private
    real = ownership.is_private_group
    monkeypatch.setattr(ownership, "is_private_group", lambda _: real(gid))
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    tmp_path.chmod(0o775)
    if private:
        check(tmp_path / "file")
    else:
        with pytest.raises(DataError, match="other users can write"):
            check(tmp_path / "file")


def test_a_file_below_a_closed_folder_may_have_any_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "file").write_text("")
    (tmp_path / "file").chmod(0o666)
    check(tmp_path / "file")


def test_a_link_counts_as_what_it_leads_to(
    tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    give_away(tmp_path / "theirs")
    with pytest.raises(DataError, match="theirs belongs to"):
        check(tmp_path / "link" / "file")


def test_new_folders_are_for_us_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_own_folder(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_the_cache_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give_away: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("EFFNET_CACHE_DIR", str(tmp_path / "cache"))
    folder = cache.cache_dir("engines")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "model.onnx").write_text("")
    give_away(folder / "model.onnx")
    with pytest.raises(DataError, match="set EFFNET_CACHE_DIR to a folder of your own"):
        cache.cached(folder / "model.onnx")
    give_away(folder)
    with pytest.raises(DataError, match="set EFFNET_CACHE_DIR to a folder of your own"):
        cache.cache_dir("engines")
