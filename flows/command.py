"""A flow as a command: its parameters become options, its docstring the help."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from effnet_core.cli.guard import guarded
from effnet_core.errors import ConfigError
from flows.service.server import prefect_api


def run_as_command(entrypoint: str) -> None:
    """Run ``module:flow`` with the options of the command line, on a Prefect server.

    Args:
        entrypoint: where the flow is defined.
    """
    module, _, name = entrypoint.partition(":")
    flow = getattr(importlib.import_module(module), name)

    def command(**values: Any) -> None:
        _require_allowed(flow, values)
        with prefect_api() as url:
            from prefect.settings import PREFECT_API_URL, temporary_settings

            with temporary_settings({PREFECT_API_URL: url}):
                result = flow(**values)
        typer.echo(result)

    command.__doc__ = inspect.getdoc(flow.fn).split("\n\nArgs:")[0]  # type: ignore[union-attr]
    command.__signature__ = _signature(flow.fn)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(guarded(command))
    app()


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


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The function's signature with its documented arguments as typer options."""
    hints = get_type_hints(function)
    helps = _argument_helps(inspect.getdoc(function) or "")
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        option = typer.Option(help=helps.get(parameter.name, ""), show_default=True)
        parameters.append(
            parameter.replace(
                annotation=Annotated[hints[parameter.name], option],
                kind=inspect.Parameter.KEYWORD_ONLY,
            )
        )
    return inspect.Signature(parameters)


def _argument_helps(doc: str) -> dict[str, str]:
    """The lines of a docstring's ``Args`` section."""
    section = doc.partition("Args:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
