"""``python -m tests.fuzz --count 30000 --seed 1``: counts of what hostile files meet, a line a kind."""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType

from effnet_core.errors import EffnetError
from tests.fuzz.doors import doors

LIMIT_BYTES = 6 << 30
LIMIT_S = 20
"""Seconds that one file may take."""


class TooLong(BaseException):
    """A file kept its reader busy for too long."""


def fuzz(count: int, seed: int) -> tuple[dict[str, Counter[str]], dict[str, str]]:
    """Attack each door by its share.

    Returns:
        For each kind how many were taken, refused in a sentence, or broke their reader; and the last
        traceback of each place that broke.
    """
    counts: dict[str, Counter[str]] = {}
    broken: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="effnet-fuzz-") as name:
        found = doors(Path(name))
        total = sum(door.share for door in found)
        for door in found:
            counts[door.name] = Counter()
            for index in range(max(1, count * door.share // total)):
                outcome = _attack(door, random.Random(f"{seed} {door.name} {index}"), broken)
                counts[door.name][outcome] += 1
    return counts, broken


def _attack(door: object, chance: random.Random, broken: dict[str, str]) -> str:
    signal.alarm(LIMIT_S)
    try:
        door.attack(chance)  # type: ignore[attr-defined]
    except EffnetError as error:
        return "refused" if "\n" not in str(error) else "more than a line"
    except (Exception, TooLong) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{type(error).__name__} in {Path(place.filename).name}:{place.name}"
        broken[key] = "".join(traceback.format_exception(error)[-12:])
        return "traceback"
    finally:
        signal.alarm(0)
    return "taken"


def report(counts: dict[str, Counter[str]], broken: dict[str, str]) -> int:
    """Print the table; returns the tracebacks."""
    kinds = ("taken", "refused", "more than a line", "traceback")
    print(f"{'file':26}" + "".join(f"{kind:>18}" for kind in kinds))
    for name, row in counts.items():
        print(f"{name:26}" + "".join(f"{row[kind]:18,}" for kind in kinds))
    whole = sum(counts.values(), Counter[str]())
    print(f"{'all ' + format(whole.total(), ','):26}" + "".join(f"{whole[k]:18,}" for k in kinds))
    for place, text in sorted(broken.items()):
        print(f"\n{place}\n{text}")
    return whole["traceback"]


def prepare() -> None:
    """Limits of memory and time, and no line of a library."""

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise TooLong(f"more than {LIMIT_S} s")

    signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    warnings.simplefilter("ignore")
    os.environ.setdefault("XDG_STATE_HOME", tempfile.mkdtemp(prefix="effnet-fuzz-state-"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    prepare()
    sys.exit(1 if report(*fuzz(options.count, options.seed)) else 0)


if __name__ == "__main__":
    main()
