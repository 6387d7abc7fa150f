"""Subprocesses: the one module that starts programs, from argument lists and never through a shell.

Those that `run` and `lines` start are not in the terminal's foreground group: what Ctrl-C or a closed terminal ends is
for this process to decide.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from denzel.errors import CommandFailed, ToolMissing

#: Seconds between SIGTERM and SIGKILL for a program whose output is no longer read.
_TERMINATE_TIMEOUT = 5

#: Hints for a program that is not installed.
INSTALL = {"docker": "Install Docker Engine and its Compose plugin: https://docs.docker.com/engine/install/"}


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
    timeout: float | None = None,
    stdin: str = "",
) -> str:
    """Run a program to its end, with `variables` added to its environment, and return its standard output.

    Raises CommandFailed, also for a program that is killed after `timeout` seconds, and ToolMissing.
    """
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=_environment(variables),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            process_group=0,
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(argv, -signal.SIGKILL, f"no end after {timeout} s") from None
    except FileNotFoundError as error:
        raise _not_found(argv, error) from None
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr)
    return done.stdout


def lines(argv: Sequence[str], *, cwd: Path | None = None, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """The lines that a program prints on either stream, as they come; raises ToolMissing, and CommandFailed at the end.

    `variables` are added to its environment. The program is terminated when the caller stops reading.
    """
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=_environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
    except FileNotFoundError as error:
        raise _not_found(argv, error) from None
    tail: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-49:], line]
            yield line.rstrip("\n")
        code = process.wait()
        if code != 0:
            raise CommandFailed(argv, code, "".join(tail))
    finally:
        # The pipe first: a program that blocks on writing to it might not handle the signal.
        if process.stdout is not None:
            process.stdout.close()
        _end(process)


def attach(argv: Sequence[str], *, cwd: Path | None = None, variables: Mapping[str, str] | None = None) -> int:
    """Run a program on this terminal and return its exit code; raises ToolMissing."""
    try:
        return subprocess.run(argv, cwd=cwd, env=_environment(variables), check=False).returncode
    except FileNotFoundError as error:
        raise _not_found(argv, error) from None


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_TERMINATE_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment(variables: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(variables or {})}


def _not_found(argv: Sequence[str], error: FileNotFoundError) -> Exception:
    """ToolMissing for a missing program; the error itself when the folder to run it in is missing, which is a bug."""
    if error.filename != argv[0]:
        return error
    return ToolMissing(f"The program {argv[0]} is not installed.", hint=INSTALL.get(argv[0], f"Install {argv[0]}."))
