"""Signals during a change of what runs: deferred to its end; and the record of a change that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from denzel.lifecycle.interruption import interrupted_command, uninterrupted

#: Prints a line inside the block, waits for one there, and prints another one at its end.
_PROGRAM = """
import signal, sys
from pathlib import Path
from denzel.lifecycle.interruption import uninterrupted

for name in sys.argv[2:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
with uninterrupted(Path(sys.argv[1]), "restart", lambda: print("deferred", flush=True)):
    print("inside", flush=True)
    sys.stdin.readline()
    print("through", flush=True)
print("after", flush=True)
"""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "interrupted"


@contextmanager
def program(record: Path, *ignored: str) -> Iterator[subprocess.Popen[str]]:
    """The program, inside its block."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, record, *ignored],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_a_signal_takes_effect_at_the_end_of_the_block(record: Path, name: str) -> None:
    with program(record) as process:
        process.send_signal(getattr(signal, name))
        assert process.stdout is not None
        assert process.stdout.readline() == "deferred\n"
        assert record.read_text() == "restart"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate("\n", timeout=30)
    assert output == "through\n"
    assert process.returncode == -getattr(signal, name)
    assert ("KeyboardInterrupt" in errors) is (name == "SIGINT")
    assert not record.exists()


def test_a_signal_that_is_ignored_stays_so(record: Path) -> None:
    with program(record, "SIGHUP") as process:
        process.send_signal(signal.SIGHUP)
        output, _ = process.communicate("\n", timeout=30)
    assert (output, process.returncode) == ("through\nafter\n", 0)


def test_a_process_that_is_killed_leaves_the_name_of_its_command(record: Path) -> None:
    assert interrupted_command(record) is None
    with program(record) as process:
        process.kill()
        process.wait(30)
    assert interrupted_command(record) == "restart"


def test_an_error_ends_the_block_and_the_record(record: Path) -> None:
    with pytest.raises(ValueError, match="no"), uninterrupted(record, "stop", lambda: None):
        raise ValueError("no")
    assert not record.exists()


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    done = []
    with uninterrupted(tmp_path / "missing" / "record", "stop", lambda: None):
        done.append("stopped")
    assert done == ["stopped"]
