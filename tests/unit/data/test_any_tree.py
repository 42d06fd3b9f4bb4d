"""Whatever lies in a folder: every file is a picture, set aside with a reason, or another file.

Never lost, never a traceback, and the same for staging and labelling; tests/cells/test_any_tree.py has
what training reads.
"""

from __future__ import annotations

from pathlib import Path

from effnet_core.errors import DataError
from tests.support.trees import cut, labelled, of, over_trees, shortened, staged


@over_trees
def test_every_file_is_a_picture_or_set_aside_or_another(
    root: Path, out: Path, files: set[str]
) -> None:
    by_labelling = labelled(root)
    try:
        by_staging = shortened(staged(root, out))
    except DataError as error:
        assert "\n" not in str(error).replace("a\nb", "")
        by_staging = {}
    for path in sorted(files):
        label = of(path, by_labelling)
        assert label, f"labelling lost {path!r}"
        if not by_staging:
            continue
        kind = of(path, by_staging) or by_staging.get(cut(path))
        if "/" not in path:
            assert kind == "other"  # nobody says what it shows
            continue
        assert kind == label, f"{path!r}: {kind} by staging, {label} by labelling"
