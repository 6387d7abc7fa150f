"""A supervisor as a process of its own, above small programs with real pipes and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.paths import PROJECT
from support.waiting import until

#: Seconds between two checks: a hang is noticed in 1.5 s, and at a start in 6.
INTERVAL = 0.25

#: Starts children `NAME.py`, and notes orders instead of sending them to Redis. While there is a file `sleeping`, a
#: SIGKILL has no effect, as on a process that waits for a disk.
SUPERVISOR = """
import os, signal, sys
from app.serving.supervisor import child, supervisor
kill = os.kill
os.kill = lambda pid, number: os.path.exists("sleeping") and number == signal.SIGKILL or kill(pid, number)
child.FIRST_PAUSE, child.MAX_PAUSE, child.LOAD_PAUSE = 0.1, 0.4, 0.5
child.STEADY_AFTER = float(sys.argv[3])
supervisor.SENDER_STOP_MARGIN, supervisor.KILL_MARGIN, supervisor.EXIT_MARGIN = 3, 1, 0.5
supervisor.SENDER_GRACE = 1
worker, sender = (child.Child(name, [sys.executable, f"{name}.py"], os.environ) for name in ("worker", "sender"))
order = ["bash", "-c", 'echo "order $1" >> notes', "order"]
above = supervisor.Supervisor(worker, sender, order, stop_timeout=float(sys.argv[1]), check_interval=float(sys.argv[2]))
sys.exit(above.run())
"""

#: What each child begins with. As the real ones do, it ends when its parent is gone.
CHILD = """
import os, signal, sys, time
from app.serving.heartbeat import Heartbeat
name, parent = sys.argv[0].removesuffix(".py"), os.getppid()
heartbeat = Heartbeat.from_environment(os.environ)

def note(text):
    with open("notes", "a") as notes:
        notes.write(f"{name} {text}\\n")

def on(number, act):
    signal.signal(number, lambda *_: act())

def end(code=0):
    note("ends")
    os._exit(code)

def exists(file):
    return os.path.exists(file)

def live(beats=True, until=lambda: False):
    while os.getppid() == parent and not until():
        if beats:
            heartbeat.beat()
        time.sleep(0.02)

on(signal.SIGTERM, end)
heartbeat.beat()
note(f"started {os.getpid()} {os.environ.get('LOAD_ENDED', '-')}")
"""


@dataclass
class Supervised:
    """A supervisor that runs, and what its children and its orders have noted."""

    process: subprocess.Popen[bytes]
    folder: Path

    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def orders(self) -> list[str]:
        return [note.removeprefix("order ") for note in self.notes() if note.startswith("order ")]

    def starts(self, name: str) -> list[tuple[int, str]]:
        """The process id of each start of a child, and how its load had ended, `-` for not."""
        words = [note.split() for note in self.notes()]
        return [(int(pid), ended) for child, what, pid, ended in (w for w in words if len(w) == 4) if child == name]

    def pid(self, name: str, *, after: int = 0) -> int:
        """The process id of a child once it has noted its start, after so many starts before."""
        return until(lambda: self.starts(name)[after:], what=f"start {after} of the {name}")[0][0]

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def until_it_logs(self, text: str) -> None:
        until(lambda: text in self.output(), what=text)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


Supervise = Callable[..., Supervised]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Starts a supervisor of children with this code; they live and beat by default. The `bare` one has no CHILD."""
    started: list[Supervised] = []

    def start(
        *,
        worker: str = "live()",
        sender: str = "live()",
        bare: str = "",
        stop_timeout: float = 20,
        steady_after: float = 30,
    ) -> Supervised:
        for name, code in (("worker", worker), ("sender", sender)):
            (tmp_path / f"{name}.py").write_text(code if name == bare else CHILD + code)
        command = [sys.executable, "-c", SUPERVISOR, str(stop_timeout), str(INTERVAL), str(steady_after)]
        with (tmp_path / "output").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)}, stderr=output
            )
        started.append(Supervised(process, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        for name in ("worker", "sender"):
            for pid, _ in one.starts(name):
                until(lambda pid=pid: not is_alive(pid), what=f"the end of {name} {pid}")
        print(one.output())  # pytest shows it when the test has failed


def is_alive(pid: int) -> bool:
    """True while the process runs; a stopped one is continued, so that it finds its parent gone."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state) and not state.startswith("Z")
