"""Values that were read from a file, checked against the record that they are to become."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from effnet_core.errors import DataError, EffnetError

R = TypeVar("R")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]

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
        checked = _model(kind).model_validate(values)  # type: ignore[arg-type]
    except ValidationError as cause:
        raise ValueError(first_problem(cause)) from cause
    return kind(**{name: getattr(checked, name) for name in checked.model_fields_set})


def with_tuples(values: Any, *names: str) -> Any:
    """The same values, with tuples in the place of JSON's lists under some names."""
    if not isinstance(values, dict):
        return values
    lists = {name: values[name] for name in names if isinstance(values.get(name), list)}
    return {**values, **{name: tuple(items) for name, items in lists.items()}}


def first_problem(error: ValidationError) -> str:
    """Where a value is wrong and how, in a few words."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, found["loc"]))
    text = " ".join(str(found["msg"]).removeprefix("Value error, ").split())[:200]
    return f"{place}: {text}" if place else text


@contextmanager
def whole(
    path: Path,
    what: str,
    *,
    error: type[EffnetError] = DataError,
    remedy: str = "restore it, or repeat the command that wrote it",
) -> Iterator[None]:
    """Turn nonsense that is found in a file of ours into a sentence.

    Args:
        path: the file.
        what: it is called.
        error: to raise.
        remedy: what to do, for the end of the sentence.
    """
    try:
        yield
    except NONSENSE as cause:
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise error(
            f"{what} {path} is damaged or of another version ({reason}); {remedy}"
        ) from cause


@functools.cache
def _model(kind: Any) -> type[BaseModel]:
    """What checks values against the fields of a dataclass; lists must be tuples where it has those."""
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        optional = field.default is not MISSING or field.default_factory is not MISSING
        fields[field.name] = (hints[field.name], None if optional else ...)
    config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    return create_model(kind.__name__, __config__=config, **fields)
