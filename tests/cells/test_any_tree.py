"""Whatever lies in a folder: training decodes what staging took and labelling labels, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore.dataset import vision

from effnet_core.data.images import WHITE, decode_image, to_rgb
from effnet_core.data.loader import FileSource
from effnet_core.data.manifest import open_dataset
from effnet_core.data.placing import CONVERTED_SUFFIX
from effnet_core.errors import DataError
from tests.support.trees import cut, labelled, over_trees, shortened, staged


def trained(out: Path) -> set[str]:
    """The files that training reads, each decoded as training does it, to the pixels of inference."""
    decode, found = vision.Decode(), set()
    dataset = open_dataset(out)
    for name in dataset.counts:
        split = dataset.split(name)
        count = len(split)
        source = FileSource(split, range(count), WHITE, np.ones(count, np.bool_))
        assert len(source) == count
        for index, path in enumerate(split.paths):
            content, label = source[index]
            plain = np.asarray(to_rgb(decode_image((out / path).read_bytes()), WHITE))
            assert np.array_equal(decode(content), plain), path
            assert path.split("/")[2] == dataset.class_names[label]
            found.add(path.split("/", 2)[2].removesuffix(CONVERTED_SUFFIX).partition("~")[0])
    return found


@over_trees
def test_training_reads_the_pictures_of_staging_and_labelling(
    root: Path, out: Path, _files: set[str]
) -> None:
    try:
        by_staging = shortened(staged(root, out))
    except DataError:  # tests/unit/data/test_any_tree.py
        return
    pictures = {path for path, kind in by_staging.items() if kind == "picture"}
    by_training = trained(out)
    assert by_training == pictures
    by_labelling = {
        path
        for path, kind in labelled(root).items()
        if kind == "picture" and "/" in path  # beside the classes nobody says what it shows
    }
    assert {cut(path) for path in by_labelling} == {cut(path) for path in by_training}
