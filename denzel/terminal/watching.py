"""Display of a task's events: a progress bar on a terminal, and a line for each event elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click

from denzel.terminal.console import until_interrupted
from denzel.terminal.tables import escape
from denzel.watch import AWAY, TaskEvent

#: Steps of the bar, and its width.
_STEPS, _WIDTH = 1000, 30

_COLOURS = {"SUCCESS": "green", "FAILURE": "red", "REVOKED": "yellow"}


def watched(events: Iterable[TaskEvent]) -> str | None:
    """Show events as they come, until the last one or Ctrl-C; returns the task's status, None after Ctrl-C."""
    display = _Bar() if sys.stdout.isatty() else _Lines()
    with until_interrupted():
        for event in events:
            if event.is_last:
                display.clear()
                click.echo(_end(event.data))
                return str(event.data.get("status"))
            display.show(event)
    return None


class _Lines:
    """Every event is a line."""

    def show(self, event: TaskEvent) -> None:
        """Show one event."""
        text = _output(event.data) if event.name == "output" else _state(event)
        if text:
            click.echo(text)

    def clear(self) -> None:
        """Remove what was for the moment."""


class _Bar(_Lines):
    """Output is a line; below it the last line shows the state, or a bar."""

    def __init__(self) -> None:
        self._bar = click.progressbar(length=_STEPS, width=_WIDTH, show_eta=False, item_show_func=_message)
        self._fraction = 0.0

    def show(self, event: TaskEvent) -> None:
        """Show one event."""
        self.clear()
        if event.name == "output":
            click.echo(_output(event.data))
            self._draw()
        elif event.name == "progress" and event.data.get("fraction") is not None:
            self._fraction = event.data["fraction"]
            self._bar.current_item = event.data.get("message")
            self._draw()
        elif event.name in ("restarted", "skipped"):
            self._fraction, self._bar.current_item = 0.0, None
            click.echo(_state(event))
        else:
            click.echo(_state(event), nl=False)

    def clear(self) -> None:
        """Remove the last line, in which the cursor is."""
        click.echo("\r\033[K", nl=False)

    def _draw(self) -> None:
        if self._fraction or self._bar.current_item:
            self._bar.pos = round(self._fraction * _STEPS)
            click.echo(self._bar.format_progress_line(), nl=False)


def _message(message: Any) -> str | None:
    return None if message is None else escape(str(message))


def _state(event: TaskEvent) -> str:
    """One line for an event that is no output."""
    data = event.data if isinstance(event.data, dict) else {}
    if event.name == "waiting":
        eta = data.get("eta_seconds")
        return f"waiting: position {data.get('position')}{'' if eta is None else f', about {eta:.0f} s to its end'}"
    if event.name == "started":
        delivery = data.get("delivery", 1)
        return "running" if delivery == 1 else f"running, delivery {delivery}"
    if event.name == "progress":
        fraction = data.get("fraction")
        share = "" if fraction is None else f"{fraction:4.0%} "
        return f"{share}{escape(str(data.get('message', '')))}"
    if event.name == "restarted":
        return click.style("restarted: its worker died or stopped; the output so far is void", fg="yellow")
    if event.name == "skipped":
        return click.style(f"{data.get('outputs')} outputs are not kept any more", fg="yellow")
    if event.name == AWAY:
        return "the api does not answer; trying again"
    return escape(event.name)


def _output(value: Any) -> str:
    return escape(json.dumps(value, ensure_ascii=False))


def _end(data: Any) -> str:
    """The status, the seconds that the task took, and its result in the next line."""
    status, ran = str(data.get("status")), (data.get("seconds") or {}).get("ran")
    took = "" if ran is None else f" in {ran:.1f} s"
    return f"{click.style(status, fg=_COLOURS.get(status, 'red'))}{took}\n{_output(data.get('result'))}"
