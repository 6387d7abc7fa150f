"""Reading a tutorial page as a list of steps; the conventions are in the comment at the top of docs/tutorial.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Command:
    """A command to type, and its expected output: empty for anything."""

    text: str
    output: list[str] = field(default_factory=list)
    second_terminal: bool = False

    @property
    def asks_for_a_status(self) -> bool:
        """True when the command may be repeated: it changes nothing, and its output changes over time."""
        return self.text.startswith("curl ") and "/status/" in self.text and "-X" not in self.text


@dataclass
class File:
    """A file to write."""

    path: str
    text: str


@dataclass
class SecondTerminal:
    """The next expected output of the second terminal; None when it is closed."""

    output: list[str] | None


Step = Command | File | SecondTerminal

_COMMENT = re.compile(r"<!-- (?P<words>.*) -->")


def steps(page: str) -> Iterator[Step]:
    """The steps of a page, in their order."""
    lines = iter(re.sub(r"<!--\n.*?-->", "", page, count=1, flags=re.DOTALL).splitlines())
    words = ""
    for line in lines:
        if comment := _COMMENT.fullmatch(line):
            words = comment["words"]
            if words == "end of the second terminal":
                yield SecondTerminal(None)
        elif line.startswith("```") and line != "```":
            block = list(iter(lambda: next(lines), "```"))
            if words.startswith("file: "):
                yield File(words.removeprefix("file: "), "\n".join(block) + "\n")
            elif words == "second terminal shows":
                yield SecondTerminal(block)
            elif line == "```console":
                yield from _commands(block, second_terminal=words == "second terminal")
            words = ""


def _commands(block: list[str], *, second_terminal: bool) -> list[Command]:
    commands: list[Command] = []
    continued = False
    for line in block:
        if line.startswith("$ "):
            commands.append(Command(line[2:], second_terminal=second_terminal))
        elif continued:
            commands[-1].text += f"\n{line}"
        else:
            commands[-1].output.append(line)
        continued = line.endswith("\\") and not commands[-1].output
    return commands


def matches(expected: list[str], shown: str) -> bool:
    """True when `shown` matches the page's output, where `...` stands for anything."""
    pattern = ""
    for line in expected:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ ]*\n"
    return re.fullmatch(pattern, shown.rstrip("\n") + "\n") is not None
