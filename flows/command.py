"""A flow as a command: its parameters become options, with the names and helps of the dashboard's form."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import click

from effnet_core.cli.guard import guarded
from effnet_core.errors import ConfigError
from flows.service.server import AUTH_VARIABLE, prefect_api

OUT = "--out", "--output"
"""One option, whatever a flow calls it."""


def run_as_command(entrypoint: str) -> None:
    """Run ``module:flow`` with the options of the command line, on a Prefect server.

    Args:
        entrypoint: where the flow is defined.
    """
    module, _, name = entrypoint.partition(":")
    flow = getattr(importlib.import_module(module), name)

    def call(**values: Any) -> None:
        # An option that was not given keeps the flow's own default.
        given = {key: value for key, value in values.items() if value not in (None, ())}
        _require_allowed(flow, given)
        with prefect_api() as url:
            from prefect.settings import (
                PREFECT_API_AUTH_STRING,
                PREFECT_API_URL,
                temporary_settings,
            )

            auth = os.environ.get(AUTH_VARIABLE)
            with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}):
                result = flow(**given)
        click.echo(result)

    text = inspect.getdoc(flow.fn) or ""
    options = [*_options(flow.parameters)]
    command = click.Command(
        flow.name, params=options, callback=guarded(call), help=text.split("\n\nArgs:")[0]
    )
    command(prog_name=f"python -m {module}")


def _require_allowed(flow: Any, values: dict[str, Any]) -> None:
    """Refuse what the dashboard's form would refuse, before a server is started."""
    from prefect.exceptions import ParameterTypeError
    from prefect.logging import get_logger

    logger = get_logger("flows")
    logger.disabled = True  # it would print a page before the sentence below
    try:
        flow.validate_parameters(values)
    except ParameterTypeError as cause:
        problems = re.findall(r"^\s+- (.+)$", str(cause), flags=re.MULTILINE)
        text = "; ".join(problems) or " ".join(str(cause).split())
        raise ConfigError(f"a parameter is not allowed: {text}") from None
    finally:
        logger.disabled = False


def _options(schema: Any) -> Iterator[click.Parameter]:
    """An option for each parameter in the JSON schema of a flow."""
    for name, entry in schema.properties.items():
        flag = f"--{name.replace('_', '-')}"
        kinds = {part.get("type") for part in (entry, *entry.get("anyOf", ()))}
        choices = entry.get("enum")
        # A flag is always given a value; other options only where a person gives one.
        default: dict[str, Any] = {"default": entry["default"]} if "boolean" in kinds else {}
        names = [f"{flag}/--no-{flag[2:]}" if "boolean" in kinds else flag]
        names = [name, *names, *(other for other in OUT if flag in OUT and other != flag)]
        yield click.Option(
            names,
            type=click.Choice(choices) if choices else _type(kinds),
            multiple="array" in kinds,
            required=name in schema.required,
            **default,
            help=" ".join([entry.get("description", ""), *_default(entry)]),
        )


def _type(kinds: set[str | None]) -> click.types.ParamType[Any] | None:
    if "integer" in kinds:
        return click.INT
    return click.FLOAT if "number" in kinds else None


def _default(entry: dict[str, Any]) -> list[str]:
    default = entry.get("default")
    return [] if default in (None, False) else [f"[default: {default}]"]
