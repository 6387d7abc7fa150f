"""Options that several commands have, and what values of options may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from denzel.loadtest.drill import results
from denzel.services import Service

_Command = Callable[..., None]


class FiniteRange(click.FloatRange):
    """A number, and not the `nan` that Python takes for one: it is in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; a usage error for what is none."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


PORT = click.IntRange(1, 65535)
SERVICES = [service.value for service in (Service.API, Service.DENZEL, Service.MONITOR, Service.REDIS)]


def wait_option(command: _Command) -> _Command:
    """The option of every command that starts services."""
    return click.option(
        "--wait/--no-wait",
        default=True,
        show_default=True,
        help="Return when the model is loaded, or before.",
    )(command)


def file_option(command: _Command) -> _Command:
    """The option of every command that sends requests."""
    return click.option(
        "--file",
        "path",
        type=click.Path(path_type=Path),
        help="JSON file with a request, a list of them, or one in each line; they are sent in turn."
        "  [default: app/assets/example.json of the project]",
    )(command)


def yes_option(command: _Command) -> _Command:
    """The option of every command that runs requirements.sh."""
    return click.option("--yes", is_flag=True, help="Run requirements.sh on this machine too (local backend).")(command)


def json_option(what: str) -> Callable[[_Command], _Command]:
    """The option of every command that can print what it has as JSON."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print the {what} as data.")


def refuse_options_of_the_list(context: click.Context) -> None:
    """Refuse options before the name of a command below a list: they choose what is listed, and would do nothing."""
    for option in context.command.params:
        if option.name and context.params.get(option.name):
            raise click.UsageError(
                f"{option.opts[0]} before {context.invoked_subcommand} does nothing: it is an option of the list."
            )


def read_parts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Names of what a drill can kill, with commas between."""
    parts = tuple(word.strip() for word in value.split(","))
    for part in parts:
        if part not in results.PARTS:
            raise click.BadParameter(f"{part!r} is not one of {', '.join(results.PARTS)}.")
    return parts
