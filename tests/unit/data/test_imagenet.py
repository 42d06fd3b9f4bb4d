"""ImageNet's names."""

from __future__ import annotations

from effnet_core.data.imagenet import readable, rows, wordnet_ids


def test_the_table_is_whole() -> None:
    assert len(rows()) == len(set(wordnet_ids())) == len({name for _, name in rows()}) == 1000
    assert list(wordnet_ids()) == sorted(wordnet_ids())
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in wordnet_ids())


def test_well_known_classes() -> None:
    names = {index: rows()[index][1] for index in (0, 282, 404, 967, 985, 999)}
    assert names == {
        0: "tench",
        282: "tiger cat",
        404: "airliner",
        967: "espresso",
        985: "daisy",
        999: "toilet tissue",
    }
    assert rows()[282][0] == "n02123159"


def test_wordnet_ids_and_bare_numbers_become_words() -> None:
    every = tuple(name for _, name in rows())
    assert readable(wordnet_ids()) == every
    assert readable([str(index) for index in range(1000)]) == every
    assert readable(["n02123159", "n07920052"]) == ("tiger cat", "espresso")


def test_other_names_stay() -> None:
    assert readable(["cat", "dog"]) == ("cat", "dog")
    assert readable(["n02123159", "own class"]) == ("n02123159", "own class")
    assert readable([str(index) for index in range(10)]) == tuple("0123456789")
    assert readable([]) == ()
