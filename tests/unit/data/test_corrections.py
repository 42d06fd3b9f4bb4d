"""What people decided about pictures follows them into the staged data set, and its card counts it."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from effnet_core.data.corrections import COLUMNS, read_corrections
from effnet_core.data.manifest import open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError
from tests.support.images import class_folders, draw, encode


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "source", {"cat": 6, "dog": 6}, width=20, height=20)


def labels_of(data: Path) -> dict[str, str]:
    """The class of each staged file, by its digest."""
    return {digest(path): path.parent.name for path in (data / "images").rglob("*.*")}


def test_labels_are_changed_confirmed_left_out_and_added(source: Path, tmp_path: Path) -> None:
    changed, confirmed, aside = (source / "cat" / f"00{i}.jpg" for i in range(3))
    new = tmp_path / "new.png"
    new.write_bytes(encode(draw(20, 20, seed=99)))
    path = write(
        tmp_path / "labels.csv",
        {"sha256": digest(changed), "label": "dog", "given": "cat"},
        {"sha256": digest(confirmed), "label": "cat", "action": "label"},
        {"sha256": digest(aside), "action": "leave out"},
        {"sha256": digest(source / "dog" / "001.jpg")},  # nobody decided
        {"sha256": digest(new), "file": "new.png", "label": "cat"},
        {"sha256": "0" * 64, "label": "dog"},
    )
    given = read_corrections(path)
    data, _ = stage_dataset(source, tmp_path / "data", val_share=0.3, corrections=given)
    found = labels_of(tmp_path / "data")
    assert len(found) == 12 and digest(aside) not in found
    assert found[digest(changed)] == "dog" and found[digest(confirmed)] == "cat"
    assert found[digest(new)] == "cat"
    assert data.rejected == 0
    sentence = (
        "corrections by people: 1 label(s) changed, 1 confirmed, 1 picture(s) left out, "
        "1 picture(s) added, 1 of pictures that are not here"
    )
    assert sentence in (tmp_path / "data" / "data_card.html").read_text()

    # The same again does nothing; other corrections stage anew, and none undoes them.
    _, reused = stage_dataset(source, tmp_path / "data", val_share=0.3, corrections=given)
    assert reused
    plain, reused = stage_dataset(source, tmp_path / "data", val_share=0.3)
    assert not reused and labels_of(plain.root)[digest(changed)] == "cat"
    assert "corrections" not in (tmp_path / "data" / "data_card.html").read_text()


def test_a_corrected_picture_stays_on_its_side(source: Path, tmp_path: Path) -> None:
    stage_dataset(source, tmp_path / "before", val_share=0.4)
    sides = {digest(p): p.parts[-3] for p in (tmp_path / "before" / "images").rglob("*.jpg")}
    rows = [{"sha256": d, "label": "dog"} for d in list(sides)[:3]]
    given = read_corrections(write(tmp_path / "l.csv", *rows))
    stage_dataset(source, tmp_path / "after", val_share=0.4, corrections=given)
    moved = [
        p for p in (tmp_path / "after" / "images").rglob("*.jpg") if sides[digest(p)] != p.parts[-3]
    ]
    assert len(moved) <= 1  # a class that lost its only validation picture gets another


def test_a_class_may_lose_all_its_pictures(source: Path, tmp_path: Path) -> None:
    class_folders(source, {"kat": 1}, width=20, height=20, seed=7)
    typo = source / "kat" / "000.jpg"
    given = read_corrections(write(tmp_path / "l.csv", {"sha256": digest(typo), "label": "cat"}))
    stage_dataset(source, tmp_path / "data", val_share=0.3, corrections=given)
    assert open_dataset(tmp_path / "data").class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "have no column 'sha256'"),
        ("sha256,x\n", "have no column 'label'"),
        ("sha256,label\nabc,cat\n", "line 2 .*'abc' is not a SHA-256"),
        (f"sha256,label,action\n{'a' * 64},cat,delete\n", "'delete' is neither 'label' nor"),
        (f"sha256,label\n{'a' * 64},cat\n{'a' * 64},dog\n", "line 3 .* a line before 'cat'"),
        (
            f"sha256,label,action\n{'a' * 64},cat,label\n{'a' * 64},,leave out\n",
            "and leave it out; keep one",
        ),
    ],
)
def test_corrections_of_nonsense(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "l.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_corrections(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_corrections(tmp_path / "nowhere.csv")


def test_a_folder_of_reviews_is_read_in_order(tmp_path: Path) -> None:
    cat, dog, owl = (letter * 64 for letter in "abc")
    rounds = {
        "2026-05-01/labels.csv": f"{cat},p/1.png,cat,label\n{dog},p/2.png,dog,label\n{owl},,,leave out\n",
        "2026-05-02/labels (1).csv": f"{dog},,,leave out\n{owl},p/1.png,owl,label\n",
    }
    for name, rows in rounds.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(f"sha256,file,label,action\n{rows}")
    (tmp_path / "2026-05-02" / "queue.csv").write_text("not this one")
    found = read_corrections(tmp_path)
    assert found.labels == {cat: "cat", owl: "owl"}
    assert found.left_out == {dog}
    assert found.files == {
        cat: tmp_path / "2026-05-01/p/1.png",
        owl: tmp_path / "2026-05-02/p/1.png",
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is a folder without a file labels\*\.csv"):
        read_corrections(tmp_path / "empty")
