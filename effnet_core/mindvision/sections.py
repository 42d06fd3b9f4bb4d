"""A YAML's sections, whose keys are asked for one by one; what nobody asked for is unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from effnet_core.errors import ConfigError
from effnet_core.text import nearest, shown

V = TypeVar("V")


class Section:
    """A mapping whose keys are asked for; what nobody asked for is unknown."""

    def __init__(self, values: Mapping[str, Any], name: str, path: Path) -> None:
        self.values = values
        self.name = name
        self.path = path
        self.asked: dict[str, None] = {}

    def key(self, name: str) -> str:
        """The whole name of a key, for people."""
        return f"{self.name}.{name}" if self.name else name

    def get(self, name: str, read: Callable[[Any], V], default: V) -> V:
        """A value, or the default where it is absent or null.

        Raises:
            ConfigError: ``read`` cannot take it.
        """
        self.asked[name] = None
        value = self.values.get(name)
        if value is None:
            return default
        try:
            return read(value)
        except (TypeError, ValueError) as cause:
            raise ConfigError(f"{self.path}: {self.key(name)}={shown(value)} {cause}") from cause

    def fact(self, name: str, *known: Any, why: str) -> None:
        """Refuse another value than the known ones."""
        value = self.get(name, lambda given: given, None)
        if value is not None and value not in known:
            allowed = " or ".join(str(one) for one in known)
            raise ConfigError(
                f"{self.path}: {self.key(name)}={shown(value)} cannot be followed: {why}; write {allowed}"
            )

    def ignore(self, *names: str) -> None:
        """Keys that are counted from the data, or say what is so anyway."""
        self.asked.update(dict.fromkeys(names))

    def part(self, name: str) -> Section:
        """A section inside; an empty one where it is absent.

        Raises:
            ConfigError: it is not a section.
        """
        found: Any = self.get(name, lambda given: given, {})
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"{self.path}: {self.key(name)} must be a section with keys of its own, not {shown(found)}"
            )
        return Section(found, self.key(name), self.path)

    def done(self) -> None:
        """Refuse what nobody asked for.

        Raises:
            ConfigError: a key is unknown; the nearest is named.
        """
        for name in self.values:
            if name not in self.asked:
                raise ConfigError(
                    f"{self.path}: unknown key {self.key(str(name))!r}{nearest(str(name), self.asked)} "
                    f"(known here: {', '.join(self.asked)})"
                )


def boolean(value: Any) -> bool:
    """True or false, and nothing that merely looks so."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def integer(value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def number(value: Any) -> float:
    """A number; YAML 1.1 reads 1e-5 as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("must be a number")
    try:
        return float(value)
    except ValueError:
        raise ValueError("must be a number") from None


def text(value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def side(value: Any) -> int:
    """One number, or the same twice."""
    sides = value if isinstance(value, list) else [value]
    if len(set(sides)) != 1:
        raise ValueError("must be square: one number, or the same twice")
    return integer(sides[0])


def numbers(count: int) -> Callable[[Any], tuple[float, ...]]:
    """A reader of so many numbers."""

    def read(value: Any) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) != count:
            raise ValueError(f"must be {count} numbers")
        return tuple(map(number, value))

    return read


def keep(section: Section, given: dict[str, Any], **keys: tuple[str, Callable[[Any], Any]]) -> None:
    """Put values that are there under other names."""
    for name, (target, reader) in keys.items():
        value = section.get(name, reader, None)
        if value is not None:
            given[target] = value
