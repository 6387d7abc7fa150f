"""Parser of the plain output of `docker compose build`: the steps that run, and the cause of a failure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from denzel.backends.base import BuildStep
from denzel.errors import BuildFailed
from denzel.services import State

_BUILD_STEP = re.compile(r"#(\d+) \[(?:\S+ +)*(\d+/\d+)\] RUN (.*)")
_BUILD_OUTPUT = re.compile(r"#(\d+) \d+\.\d+ (.*)")
_BUILD_DONE = re.compile(r"#(\d+) DONE .*")
_WORTH_SHOWING = re.compile(r"\s*(Downloading .* \([\d.]+ [MG]B\)|Installing collected packages)(?::.*)?")

#: Descriptions of the Dockerfile's commands, by a word in them; the first that is found counts.
_DESCRIPTIONS = {
    "requirements.txt": "pip install, of requirements.txt",
    "runtime.txt": "pip install, of runtime.txt",
    "requirements.sh": "requirements.sh",
    "useradd": "the user of the services",
    "/context": "the files of the project",
}


class BuildReader:
    """Finds in the output of a build the commands that really run; cached ones are left out."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[str, str]] = {}
        self._running: dict[str, State] = {}

    def feed(self, line: str) -> Iterator[BuildStep]:
        """The step that begins with this line of output, or continues with one worth showing."""
        if match := _BUILD_STEP.fullmatch(line):
            step, number, command = match.groups()
            self._begun[step] = (number, command)
            return
        output = _BUILD_OUTPUT.fullmatch(line)
        match = output or _BUILD_DONE.fullmatch(line)
        if match is None:
            return
        step = match[1]
        if step in self._begun:
            number, command = self._begun.pop(step)
            self._running[step] = State.INSTALLING_PIP if "pip install" in command else State.INSTALLING_OS
            yield BuildStep(state=self._running[step], text=f"{number} {_describe(command)}")
        if output and step in self._running and (worth := _WORTH_SHOWING.fullmatch(output[2])):
            yield BuildStep(state=self._running[step], text=f"    {_shorten(worth[1])}")


def build_failure(image: str, output: list[str]) -> BuildFailed:
    """The error for a failed build, in pip's own words where pip failed."""
    printed = [match[2] for line in output if (match := _BUILD_OUTPUT.fullmatch(line))]
    errors = [line.removeprefix("ERROR: ") for line in printed if line.startswith("ERROR: ")]
    # pip's first error names the package; only the one on ignored versions of it may come before.
    pip = next((error for error in errors if not error.startswith("Ignored the following")), "")
    failed = next((line for line in reversed(output) if "failed to solve" in line), "")
    script = re.search(r"bash .*requirements\.sh.*exit code: (\d+)", failed)
    reason = pip.rstrip(".") or failed.removeprefix("failed to solve: ") or "see the output above"
    remedy = "Fix the cause"
    if script:
        reason, remedy = f"requirements.sh ended with exit code {script[1]}", "Fix requirements.sh"
    elif pip and "requirements.txt" in failed:
        remedy = "Fix requirements.txt"
    return BuildFailed(
        f"The image {image} could not be built: {reason}.",
        hint=f"{remedy}, then repeat the command. What ran before still runs.",
        detail="\n".join((printed or output)[-20:]),
    )


def _describe(command: str) -> str:
    for word, description in _DESCRIPTIONS.items():
        if word in command:
            return description
    return _shorten(" ".join(command.split()))


def _shorten(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."
