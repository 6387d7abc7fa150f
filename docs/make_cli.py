"""Write docs/cli.md from the commands' own help texts: `python docs/make_cli.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from denzel.cli import main

PAGE = Path(__file__).with_name("cli.md")

#: Columns of a help text; fixed, so that the page does not depend on the terminal it was made in.
WIDTH = 100

OPENING = """\
# The command line

<!-- Made by docs/make_cli.py from the commands' own help texts: change those, then type `make docs`. -->

Every command but `startproject` works from any folder inside a project.

Exit codes: 0, done. 1, something that you can act on: a message and a hint, on the standard error.
2, the command was typed wrongly. Ctrl-C out of a `--live` view, or of `denzel listen`, is 0.
"""


def page() -> str:
    """The text of docs/cli.md."""
    top = click.Context(main, info_name="denzel", terminal_width=WIDTH, **main.context_settings)
    return "\n".join([OPENING, *_sections(main, top)])


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """A section for a command, then those of the commands below it."""
    yield _section(context.command_path, command.get_help(context))
    if isinstance(command, click.Group):
        for name, below in sorted(command.commands.items()):
            yield from _sections(below, click.Context(below, info_name=name, parent=context, terminal_width=WIDTH))


def _section(title: str, help_text: str) -> str:
    return f"## {title}\n\n```text\n{help_text}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
