"""Reading and writing the settings: recipe, overrides, file; and the sentences for what is refused."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from effnet_core.config import schema
from effnet_core.config.recipes import packaged_recipe, recipe_names
from effnet_core.config.schema import RunConfig
from effnet_core.config.yaml_text import parse_yaml
from effnet_core.errors import ConfigError
from effnet_core.system.files import write_text
from effnet_core.text import nearest, os_reason, shown

CONFIG_NAME = "config.yaml"
MOST_ERRORS = 10
"""Problems of a configuration that one message names at most."""


def leaf_keys() -> dict[str, Any]:
    """Every setting as ``section.key``, with its default."""
    defaults = RunConfig()
    return {
        f"{section}.{key}": getattr(getattr(defaults, section), key)
        for section, field in RunConfig.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }


def meanings() -> dict[str, str]:
    """What each setting, as ``section.key``, is for: the text below it in the class of its section."""
    tree = ast.parse(inspect.getsource(schema))
    texts = {
        (part.name, setting.target.id): text.value.value
        for part in tree.body
        if isinstance(part, ast.ClassDef)
        for setting, text in pairwise(part.body)
        if isinstance(setting, ast.AnnAssign)
        and isinstance(setting.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    return {
        f"{section}.{key}": " ".join(str(texts.get((field.annotation.__name__, key), "")).split())  # type: ignore[union-attr]
        for section, field in RunConfig.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }


def load_config(
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Read, merge and validate settings. Values that are values already stay so: only text is read as YAML.

    Args:
        recipe: name of a packaged recipe, or a path that ends in ``.yaml``.
        overrides: ``section.key=value`` each; the value is read as YAML.
        values: a nested mapping that lies between recipe and overrides, such as ``by_section`` makes.
        options: another, of the options of a command; it comes last and wins.

    Raises:
        ConfigError: the recipe or a key is unknown, or a value has the wrong type or range; the
            message names the key, the value, what is allowed and the nearest known name.
    """
    try:
        return RunConfig.model_validate(
            merged(
                {} if recipe is None else _read_recipe(recipe),
                values or {},
                *map(_parse_override, overrides),
                options or {},
            )
        )
    except ValidationError as cause:
        raise ConfigError(_explain(cause)) from None


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other; the later wins."""
    result: dict[str, Any] = {}
    for layer in layers:
        _merge(result, layer)
    return result


def by_section(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by ``section.key`` as the nested mapping that ``load_config`` takes; None is left out."""
    result: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        if value is not None:
            section, _, leaf = key.partition(".")
            result.setdefault(section, {})[leaf] = value
    return result


def read_config(path: Path) -> RunConfig:
    """The configuration that a run wrote into its folder.

    Raises:
        ConfigError: the file is missing or does not validate.
    """
    return load_config(path)


def write_config(config: RunConfig, run_dir: Path) -> Path:
    """Write the whole tree to ``run_dir/config.yaml``; every rank reads that file.

    What is still to be decided (``auto.enabled``) stays open in the file, too.
    """
    path = run_dir / CONFIG_NAME
    values = config.model_dump(mode="json", exclude_unset=config.auto.enabled)
    write_text(path, yaml.safe_dump(values, sort_keys=False))
    return path


def _read_recipe(recipe: str | Path) -> Mapping[str, Any]:
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml"):
        names = recipe_names()
        if str(recipe) not in names:
            raise ConfigError(
                f"recipe {str(recipe)!r} is unknown{nearest(str(recipe), names)} "
                f"(known: {', '.join(names)}; or give a path that ends in .yaml)"
            )
        return packaged_recipe(str(recipe))
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise ConfigError(f"recipe file {path} does not exist") from cause
    except OSError as cause:
        raise ConfigError(f"recipe file {path} cannot be read ({os_reason(cause)})") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise ConfigError(f"recipe file {path} is not valid YAML: {_one_line(cause)}") from cause
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"recipe file {path} must hold sections such as 'train:', not {shown(content)}"
        )
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    section, dot, leaf = key.strip().partition(".")
    if not equals or not dot or not leaf:
        raise ConfigError(
            f"override {shown(text)} is not of the form section.key=value, such as train.epochs=20"
        )
    try:
        value = parse_yaml(raw)
    except yaml.YAMLError as cause:
        raise ConfigError(
            f"override {shown(text)} has an unreadable value: {_one_line(cause)}"
        ) from cause
    if isinstance(value, str):
        value = _number(value)
    return {section: {leaf: value}}


def _number(text: str) -> str | float:
    """YAML 1.1 reads ``1e-3`` as a string; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(error: ValidationError) -> str:
    """One sentence a problem, in the words of this project."""
    errors = error.errors()
    more = f"; and {len(errors) - MOST_ERRORS} more" if len(errors) > MOST_ERRORS else ""
    return "; ".join(_explain_one(dict(item)) for item in errors[:MOST_ERRORS]) + more


def _explain_one(item: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    key, value = ".".join(location), item["input"]
    if item["type"] == "extra_forbidden":
        return f"unknown setting {key!r}{_nearest_key(location)} (see docs/configuration.md)"
    if item["type"] in ("value_error", "assertion_error"):
        message = str(item["ctx"]["error"])
        return f"{key}: {message}" if key and not message.startswith(key) else message
    if item["type"] == "model_type":
        return f"{key} must be a section with keys of its own, not {shown(value)}"
    allowed = item["msg"][0].lower() + item["msg"][1:]
    return f"{key}={shown(value)} is not allowed: {allowed.replace('input should', 'it should')}"


def _nearest_key(location: Iterable[str]) -> str:
    parts = list(location)
    known = list(leaf_keys())
    if len(parts) == 1:
        by_leaf = [key for key in known if key.endswith(f".{parts[0]}")]
        if by_leaf:
            return f"; did you mean {by_leaf[0]!r}?"
        return nearest(parts[0], RunConfig.model_fields)
    same_leaf = [key for key in known if key.partition(".")[2] == parts[-1]]
    same_section = [key for key in known if key.startswith(f"{parts[0]}.")]
    leaves = {key.partition(".")[2]: key for key in same_section}
    close = difflib.get_close_matches(parts[-1], leaves, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {leaves[close[0]]!r}?"
    return f"; did you mean {same_leaf[0]!r}?" if same_leaf else nearest(".".join(parts), known)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
