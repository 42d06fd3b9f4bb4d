"""The hand's sequence is that of its seed, whatever it meets."""

from __future__ import annotations

from itertools import islice

from tests.chaos.hand import WEIGHTS, actions


def test_a_seed_repeats_the_sequence() -> None:
    first, again, other = (list(islice(actions(seed), 500)) for seed in (1, 1, 2))
    assert first == again != other
    assert {action.what for action in first} == set(WEIGHTS)
