"""Values that were read from a file, checked against the record that they are to become."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from effnet_core.errors import DataError, EffnetError

R = TypeVar("R")

CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
"""``__pydantic_config__`` of a dataclass that is read from files."""

NONSENSE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)
"""What reading nonsense raises; also JSON that is nested too deeply."""


def check_fields(kind: type[R], values: Any) -> R:
    """A dataclass from values that were read, each of the type and range that its field has.

    Raises:
        ValueError: a field is missing, unknown, of another type or out of range; the message names it.
    """
    if not isinstance(values, dict):
        raise ValueError("it is not an object with names and values")
    try:
        checked: R = _adapter(kind).validate_python(values)  # type: ignore[arg-type]
    except ValidationError as cause:
        raise ValueError(first_problem(cause)) from cause
    return checked


def first_problem(error: ValidationError) -> str:
    """Where a value is wrong and how, in a few words."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, found["loc"]))
    text = " ".join(str(found["msg"]).removeprefix("Value error, ").split())[:200]
    return f"{place}: {text}" if place else text


@contextmanager
def whole(path: Path, what: str, *, error: type[EffnetError] = DataError) -> Iterator[None]:
    """Turn nonsense that is found in a file of ours into a sentence.

    Args:
        path: the file.
        what: it is called.
        error: to raise.
    """
    try:
        yield
    except NONSENSE as cause:
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise error(
            f"{what} {path} is damaged or of another version ({reason}); restore it, or repeat the "
            "command that wrote it"
        ) from cause


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
