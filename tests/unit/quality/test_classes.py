"""Which class of a model each class of a data set is."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core.data.imagenet import readable, wordnet_ids
from effnet_core.errors import DataError
from effnet_core.quality.classes import match, read_class_map, require_match

IMAGENET = wordnet_ids()
IMAGENETTE = ("n01440764", "n02102040", "n02979186")


def test_imagenette_by_its_ids_by_words_and_by_a_file() -> None:
    numbers = [IMAGENET.index(name) for name in IMAGENETTE]
    assert list(match(IMAGENETTE, IMAGENET)) == numbers
    assert list(match(readable(IMAGENETTE), IMAGENET)) == numbers
    own = ("fish", "dog", "player")
    given = {"fish": "n01440764", "dog": readable(IMAGENETTE)[1], "player": str(numbers[2])}
    assert list(require_match(own, IMAGENET, given)) == numbers


def test_a_number_is_a_name_unless_a_person_wrote_it() -> None:
    assert match(("3", "9"), ("9", "3")) == (1, 0)
    assert match(("3",), ("a", "b", "c", "d")) == (-1,)
    assert match(("x",), ("a", "b", "c", "d"), {"x": "3"}) == (3,)
    assert match(("x",), ("a", "b"), {"x": "2"}) == (-1,)


@pytest.mark.parametrize(
    ("data", "given", "words"),
    [
        (("cat", "dgo"), {}, r"has no class 'dgo'; did you mean 'dog'\? for 'dgo' of the data set"),
        (("cat", "d"), {"d": "cat"}, "'cat', 'd' are all the model's class 'cat'; keep one"),
        (("cat",), {"cta": "cat"}, r"has no class 'cta'; did you mean 'cat'\?"),
    ],
)
def test_what_does_not_fit_is_refused(
    data: tuple[str, ...], given: dict[str, str], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        require_match(data, ("cat", "dog"), given)


def test_a_class_map_with_or_without_a_heading(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    for text in ("data,model\na,cat\nb, 7\n", "\ufeffa,cat\n\nb,7"):
        path.write_text(text)
        assert read_class_map(path) == {"a": "cat", "b": "7"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"data,model\n", "is empty"),
        (b"a,b,c\n", "line 1 of class map .* has 3 cells, not 2"),
        (b"a,b\na,c\n", "twice"),
        (b"\xff\xfe,b\n", "UTF-8"),
    ],
)
def test_a_class_map_of_nonsense(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "map.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_class_map(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_class_map(tmp_path)
