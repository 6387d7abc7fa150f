"""A reader of a page of docs, who types its commands and compares what they show."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import time
from pathlib import Path

from support.driving import DENZEL
from support.tutorial import Command, File, SecondTerminal, matches, steps
from support.waiting import until


class Reader:
    """Somebody at two terminals, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current = folder
        self.task_id = ""
        self.second: subprocess.Popen[bytes] | None = None
        self.second_output = folder.parent / "second-terminal"
        self.second_read = 0
        self.environment = {**os.environ, "PATH": f"{Path(DENZEL).parent}:{os.environ['PATH']}"}

    def follow(self, page: str) -> None:
        """Do all steps of the page, in their order."""
        for step in steps(page):
            match step:
                case File():
                    self.write(step)
                case Command():
                    self.type(step)
                case SecondTerminal(output=None):
                    self.close_second_terminal()
                case SecondTerminal(output=output):
                    assert output is not None
                    self.sees(output)

    def write(self, step: File) -> None:
        path = self.folder / step.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text)

    def type(self, step: Command) -> None:
        command = step.text.replace("TASK_ID", self.task_id)
        if step.second_terminal:
            with self.second_output.open("wb") as output:
                self.second = subprocess.Popen(
                    ["bash", "-c", f"exec {command}"],
                    cwd=self.current,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            self.sees(step.output)
            return
        if "--purge" in command:
            # It asks when a callback has not been sent yet.
            until(lambda: self.run("denzel callbacks --json")[0].strip() == "[]", what="the last callback")
        shown, code = self.run(command)
        deadline = time.monotonic() + 30
        # The end of a task, or of its callback's delivery, is noted a moment after the reader has seen it.
        while step.asks_for_a_status and not matches(step.output, shown) and time.monotonic() < deadline:
            time.sleep(0.2)
            shown, code = self.run(command)
        self.task_id = (re.findall(r'"task_id": "([0-9a-f-]{36})"', shown) or [self.task_id])[-1]
        assert not step.output or matches(step.output, shown), f"$ {command}\n{shown}\nis not\n{step.output}"
        expected = "1" if any(line.startswith("Error:") for line in step.output) else "0"
        assert code == expected, f"$ {command}\n{shown}\nexited with {code}"

    def run(self, command: str) -> tuple[str, str]:
        """Run a command in the first terminal; returns what it shows, and its exit code."""
        end = secrets.token_hex(8)
        done = subprocess.run(
            ["bash", "-c", f'{command}\nprintf "\\n{end} %s %s" "$?" "$PWD"'],
            cwd=self.current,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        shown, _, rest = done.stdout.rpartition(f"\n{end} ")
        code, _, current = rest.partition(" ")
        self.current = Path(current)
        return shown, code

    def sees(self, expected: list[str]) -> None:
        """Wait until the second terminal shows the text of the page, after its earlier output."""

        def shown() -> bool:
            return matches(expected, self.second_output.read_text()[self.second_read :])

        until(shown, within=60, what=f"the second terminal to show {expected}")
        self.second_read = len(self.second_output.read_text())

    def close_second_terminal(self) -> None:
        if self.second is not None:
            self.second.terminate()
            self.second.wait()
            self.second = None
