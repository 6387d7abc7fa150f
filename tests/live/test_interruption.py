"""Commands that are interrupted while they change what runs, on real services."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.driving import DENZEL, Driven
from support.waiting import until

#: Moments of a restart at which it is interrupted, evenly over its whole time.
MOMENTS = 9

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def started(lab: Driven, shown: Path, *command: str) -> subprocess.Popen[bytes]:
    with shown.open("wb") as output:
        return subprocess.Popen(
            [DENZEL, *command],
            cwd=lab.root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # As at a terminal.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )


@pytest.mark.slow
def test_a_restart_can_be_interrupted_at_any_moment(lab: Driven, tmp_path: Path) -> None:
    began = time.monotonic()
    lab.denzel("restart")
    takes = time.monotonic() - began
    for moment in range(MOMENTS):
        process = started(lab, tmp_path / "shown", "restart")
        try:
            process.wait(takes * (moment + 0.5) / MOMENTS)
        except subprocess.TimeoutExpired:
            process.send_signal(SIGNALS[moment % len(SIGNALS)])
        process.wait(120)
        until(lab.is_ready, within=120, what=f"everything to be up after an interruption at moment {moment}")
        assert "cut off" not in lab.denzel("status")


def test_a_restart_that_is_killed_is_named_and_finished_by_the_next(lab: Driven, tmp_path: Path) -> None:
    process = started(lab, tmp_path / "shown", "restart")
    until((lab.root / ".denzel" / "interrupted").exists, what="the services to be stopped")
    process.kill()
    process.wait(30)
    assert "denzel restart was cut off before it was through. To finish it: denzel restart" in lab.denzel("status")
    assert "denzel restart was cut off before it was through." in lab.denzel("restart")
    assert lab.is_ready()
    assert "cut off" not in lab.denzel("status")
