"""Options that several commands share, and the types of option values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from denzel.loadtest.drill import results
from denzel.services import Service

_Command = Callable[..., None]


class FiniteRange(click.FloatRange):
    """A range of numbers without `nan`, which Python parses as a number and click finds in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The value as a number; a usage error when it is not one."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


PORT = click.IntRange(1, 65535)
SERVICES = [service.value for service in (Service.API, Service.DENZEL, Service.MONITOR, Service.REDIS)]


def wait_option(command: _Command) -> _Command:
    """Add --wait, for commands that start services."""
    return click.option("--wait/--no-wait", default=True, help="Wait until the model is loaded.")(command)


def file_option(command: _Command) -> _Command:
    """Add --file, for commands that send requests."""
    return click.option(
        "--file",
        "path",
        type=click.Path(path_type=Path),
        help="JSON file: one request, a list, or one request in each line; they are sent in turn."
        "  [default: app/assets/example.json of the project]",
    )(command)


def yes_option(command: _Command) -> _Command:
    """Add --yes, for commands that run requirements.sh."""
    return click.option("--yes", is_flag=True, help="Run requirements.sh on this machine too (local backend).")(command)


def json_option(what: str) -> Callable[[_Command], _Command]:
    """Add --json, for commands that can print their output as JSON."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print the {what} as JSON.")


def refuse_options_of_the_list(context: click.Context) -> None:
    """Raise UsageError for options of a list before the name of its subcommand, where they have no effect."""
    for option in context.command.params:
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option.opts[0]} has no effect before {context.invoked_subcommand}: it is an option of the list."
            )


def read_parts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Parse the names of parts that a drill can kill, separated by commas; raises BadParameter."""
    parts = tuple(word.strip() for word in value.split(","))
    for part in parts:
        if part not in results.PARTS:
            raise click.BadParameter(f"{part!r} is not one of {', '.join(results.PARTS)}.")
    return parts
