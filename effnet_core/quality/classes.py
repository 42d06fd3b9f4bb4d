"""Which class of a model each class of a data set is: by name, or as a file says."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from effnet_core.data.imagenet import readable
from effnet_core.errors import DataError
from effnet_core.results.answers import UNKNOWN
from effnet_core.text import nearest, os_reason, shown

SHOWN = 3


def match(
    data: Sequence[str], model: Sequence[str], given: Mapping[str, str] | None = None
) -> tuple[int, ...]:
    """The model's number of each class of a data set, ``UNKNOWN`` where it has none.

    Names are compared as they are, then as people read them (ImageNet's ids are words then).

    Args:
        data: names in the data set.
        model: names of the model.
        given: the model's name or number for names of the data set.
    """
    numbers = _numbers(model)
    given = given or {}
    return tuple(
        _by_position(given[name], len(model), numbers) if name in given else _by_name(name, numbers)
        for name in data
    )


def require_match(
    data: Sequence[str], model: Sequence[str], given: Mapping[str, str] | None = None
) -> tuple[int, ...]:
    """As ``match``, where every class must have one of its own.

    Raises:
        DataError: a class has none, or two have the same.
    """
    given = given or {}
    left_over = sorted(set(given) - set(data))
    if left_over:
        raise DataError(
            f"the data set has no class {left_over[0]!r}{nearest(left_over[0], data)} that --classes names"
        )
    labels = match(data, model, given)
    missing = [name for name, label in zip(data, labels, strict=True) if label == UNKNOWN]
    if missing:
        name = given.get(missing[0], missing[0])
        raise DataError(
            f"the model has no class {shown(name)}{nearest(name, [*model, *readable(tuple(model))])} for "
            f"{_some(missing)} of the data set; name the model's class of each with --classes FILE.csv (a "
            "line 'data,model' each, the model's class by name or number)"
        )
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        both = [name for name, label in zip(data, labels, strict=True) if label == twice]
        raise DataError(f"{_some(both)} are all the model's class {model[twice]!r}; keep one")
    return labels


def read_class_map(path: Path) -> dict[str, str]:
    """The lines ``data,model`` of a CSV file, with or without that heading.

    Raises:
        DataError: it cannot be read, or a line has not two cells.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream) if any(row)]
    except OSError as cause:
        raise DataError(f"class map {path} cannot be read ({os_reason(cause)})") from cause
    except (UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"class map {path} is not a CSV file in UTF-8 ({cause})") from cause
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not all(row):
            raise DataError(
                f"line {number} of class map {path} has {len(row)} cells, not 2: the class of the data set, "
                "and the model's name or number for it"
            )
    if rows and [cell.lower() for cell in rows[0]] == ["data", "model"]:
        del rows[0]
    found = dict(rows)
    if len(found) < len(rows):
        raise DataError(f"class map {path} names a class of the data set twice")
    if not found:
        raise DataError(f"class map {path} is empty")
    return found


def _numbers(model: Sequence[str]) -> dict[str, int]:
    """The number of each name, its own names first."""
    words = {name: number for number, name in enumerate(readable(tuple(model)))}
    return {**words, **{name: number for number, name in enumerate(model)}}


def _by_name(name: str, numbers: Mapping[str, int]) -> int:
    return numbers.get(name, numbers.get(readable((name,))[0], UNKNOWN))


def _by_position(name: str, count: int, numbers: Mapping[str, int]) -> int:
    """Of what a person wrote, which may be the model's number."""
    if (found := _by_name(name, numbers)) != UNKNOWN:
        return found
    return int(name) if name.isascii() and name.isdigit() and int(name) < count else UNKNOWN


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
