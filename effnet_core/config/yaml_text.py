"""YAML of people, read so that nothing in it costs more than its size; all its errors are of one kind."""

from __future__ import annotations

from typing import Any

import yaml

MAX_NODES = 100_000
"""Values that a text may stand for once its aliases are written out; the largest recipe has some hundred."""
MAX_CHARACTERS = 10_000_000


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or aliases make it far larger than it is.
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(
            f"it has {len(text):,} characters, at most {MAX_CHARACTERS:,} are read"
        )
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _charge(node, {})
        return loader.construct_document(node)
    except RecursionError as cause:
        raise yaml.YAMLError("it is nested too deeply") from cause
    except yaml.YAMLError:
        raise
    except (ValueError, TypeError, ArithmeticError) as cause:  # such as the date 2026-02-30
        raise yaml.YAMLError(str(cause)) from cause
    finally:
        loader.dispose()


def _charge(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for; each node is looked at once, however often it is named."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise yaml.YAMLError("it contains itself")
        return known[id(node)]
    known[id(node)] = 0
    count = 1
    if isinstance(node, yaml.MappingNode):
        count += sum(_charge(key, known) + _charge(value, known) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        count += sum(_charge(item, known) for item in node.value)
    if count > MAX_NODES:
        raise yaml.YAMLError(
            f"its aliases stand for more than {MAX_NODES:,} values; write out what is meant"
        )
    known[id(node)] = count
    return count
