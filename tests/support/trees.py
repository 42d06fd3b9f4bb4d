"""Folders as hypothesis makes them, and what staging and labelling make of each of their files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from effnet_core.data.manifest import open_dataset
from effnet_core.data.placing import CONVERTED_SUFFIX
from effnet_core.data.sources.tree import Rules
from effnet_core.data.staging import OTHER_NAME, stage_dataset
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.pipeline import Prediction, Wanted, iter_predictions
from effnet_core.infer.readers import FolderReader
from effnet_core.system.files import SHORT_BYTES, read_jsonl
from tests.support.fakes import BrightnessPredictor
from tests.support.images import draw, encode

PICTURE = encode(draw(20, 16), "JPEG")
SEE_THROUGH = encode(draw(20, 16).convert("RGBA"))
TURNED = Image.Exif()
TURNED[0x0112] = 6
CONTENTS = {
    "jpeg": PICTURE,
    "png": encode(draw(20, 16)),
    "gif": encode(draw(20, 16), "GIF"),
    "see-through": SEE_THROUGH,
    "palette": encode(draw(20, 16).convert("P"), transparency=3),
    "turned": encode(draw(20, 16), "JPEG", exif=TURNED),
    "png without its end": SEE_THROUGH[:-3],
    "cut jpeg": PICTURE[:200],
    "cut header": PICTURE[:20],
    "strip": encode(draw(300, 2)),
    "empty": b"",
    "text": b"hello",
    "html": b"<html>not found</html>",
    "apple double": b"\0\5\26\7\0\2",
    "movie": b"\0\0\0\x14ftypqt  ",
    "tiff head": b"II*\0",
    "git lfs": b"version https://git-lfs.github.com/spec/v1",
}
FOLDERS = ("cat", "dog", "deep", "@eaDir", "__MACOSX", ".git", "lost+found", "a b", "train", "Café")
STEMS = ("001", "._001", ".hidden", "photo", "Thumbs", "desktop", "n" * 240, "a\nb", "#1", "100%")
ENDS = ("", ".jpg", ".PNG", ".gif", ".txt", ".db", ".ini", ".MOV", ".json", ".dat", ".heic", ".CR2")

names = st.builds("{}{}".format, st.sampled_from(STEMS), st.sampled_from(ENDS))
paths = st.builds(
    lambda top, inner, name: "/".join((top, *inner, name)),
    st.sampled_from(("cat", "dog")),
    st.lists(st.sampled_from(FOLDERS), max_size=2),
    names,
)
trees = st.dictionaries(
    st.one_of(paths, names, st.just(os.fsdecode(b"cat/caf\xe9.jpg"))),
    st.sampled_from(sorted(CONTENTS)),
    max_size=12,
)
links = st.dictionaries(
    st.sampled_from(("cat/link", "dog/link.jpg", "link")),
    st.sampled_from((".", "..", "link", "../dog", "../../..", "nothing", "001.jpg")),
    max_size=2,
)


def over_trees(test: Callable[[Path, Path, set[str]], None]) -> Callable[[], None]:
    """Let a test see many folders: each with an output folder beside it, and the files that it has."""

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(tree=trees, linked=links)
    def over(tree: dict[str, str], linked: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "source").resolve()
            test(root, Path(folder, "out"), build(root, tree, linked))

    over.__name__ = test.__name__
    return over


def build(root: Path, tree: dict[str, str], linked: dict[str, str]) -> set[str]:
    """Write a tree with a picture in each of two classes; the paths of its files."""
    for number, name in enumerate(("cat/first.jpg", "dog/first.jpg")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(encode(draw(20, 16, seed=50 + number), "JPEG"))
    for name, kind in tree.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_dir():
                path.write_bytes(CONTENTS[kind])
        except OSError:  # a file where another path has a folder
            continue
    for name, target in linked.items():
        if not os.path.lexists(root / name):
            (root / name).symlink_to(target)
    return {
        str(Path(folder, file).relative_to(root))
        for folder, _, files in os.walk(root)
        for file in files
    }


def staged(root: Path, out: Path) -> dict[str, str]:
    """What became of each path."""
    with mock.patch("effnet_core.data.staging.write_card"):  # what takes the time
        stage_dataset(root, out, max_rejected_share=1, rules=Rules("classes"))
    dataset = open_dataset(out)
    fate = {}
    for split in dataset.counts:
        for path in dataset.split(split).paths:
            assert (out / path).is_file()
            fate[path.split("/", 2)[2].removesuffix(CONVERTED_SUFFIX)] = "picture"
    for name, kind in (("rejected.jsonl", "set aside"), (OTHER_NAME, "other")):
        for row in read_jsonl(out / name):
            assert row["reason"]
            fate[os.fsdecode(os.fsencode(row["path"])).removeprefix(f"{root}/")] = kind
    return fate


def labelled(root: Path) -> dict[str, str]:
    """As ``staged``, by labelling."""
    found = list_inputs([root], root.with_name("labels"))
    pieces = iter_predictions(
        BrightnessPredictor(), FolderReader(root), found.paths, Wanted(), readers=1
    )
    fate = {path: "other" for path, _ in (*found.other, *found.left_out)}
    for piece in pieces:
        for answer in piece.answers:
            is_picture = isinstance(answer, Prediction)
            fate[answer.path] = "picture" if is_picture else "set aside"
    return fate


def of(path: str, fate: dict[str, str]) -> str | None:
    """What became of a file: of itself, or of a folder around it that was left out."""
    parts = path.split("/")
    for end in range(len(parts), 0, -1):
        if (found := fate.get("/".join(parts[:end]))) is not None:
            return found
    return None


def cut(path: str) -> str:
    """A path as ``shortened`` has it."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name[:SHORT_BYTES]}"


def shortened(fate: dict[str, str]) -> dict[str, str]:
    """Long names are cut in the data set, and told apart by a digest."""
    return {path.partition("~")[0]: kind for path, kind in fate.items()}
