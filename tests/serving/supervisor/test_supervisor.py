"""supervisor.py, child.py: real children that end, hang, load and are stopped."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

import psutil
import pytest
from serving.supervisor.conftest import INTERVAL, Supervise, Supervised
from support.waiting import until

from app.serving.supervisor.child import MAX_MISSED, MAX_MISSED_AT_START

CHILDREN = ("worker", "sender")


def other(name: str) -> str:
    return CHILDREN[name == "worker"]


def started(supervise: Supervise, **options: object) -> Supervised:
    supervised = supervise(**options)
    for name in CHILDREN:
        supervised.pid(name)
    return supervised


def processor_time(supervised: Supervised) -> float:
    times = psutil.Process(supervised.process.pid).cpu_times()
    return float(times.user + times.system)


# ------------------------------------------------------------------ ends


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_that_was_killed_is_started_again_and_the_other_one_left_alone(name: str, supervise: Supervise) -> None:
    supervised = supervise()
    os.kill(supervised.pid(name), signal.SIGKILL)
    supervised.pid(name, after=1)
    assert len(supervised.starts(other(name))) == 1
    assert f"ERROR/Supervisor] the {name} was ended by SIGKILL; starting it again in 0.1 s" in supervised.output()


@pytest.mark.parametrize("name", CHILDREN)
def test_the_pause_grows_for_a_child_that_ends_again_and_again(name: str, supervise: Supervise) -> None:
    supervised = supervise(**{name: "sys.exit(3)"})
    supervised.pid(name, after=4)
    pauses = re.findall(rf"the {name} ended with exit code 3; starting it again in (\S+) s", supervised.output())
    assert pauses[:4] == ["0.1", "0.2", "0.4", "0.4"]


def test_the_pause_is_short_again_after_a_child_has_run_for_a_while(supervise: Supervise) -> None:
    code = "live(until=lambda: exists('end') and (os.remove('end') or True)) if exists('run') else None; sys.exit(3)"
    supervised = supervise(worker=code, steady_after=2)
    supervised.until_it_logs("again in 0.4 s")
    (supervised.folder / "run").touch()
    starts = len(supervised.starts("worker"))
    supervised.pid("worker", after=starts)
    time.sleep(2.1)
    (supervised.folder / "end").touch()
    supervised.pid("worker", after=starts + 1)
    assert supervised.output().rstrip().endswith("again in 0.1 s")


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_that_ends_before_it_was_ever_up_ends_the_supervisor(name: str, supervise: Supervise) -> None:
    """As with an invalid setting: whoever runs the services shows that, and starts it again ever more seldom."""
    supervised = supervise(**{name: "import sys; sys.exit('CALLBACK_SECRET is bad')"}, bare=name)
    assert supervised.process.wait(30) == 1
    assert "CALLBACK_SECRET is bad" in supervised.output()
    assert f"the {name} ended with exit code 1 before it was up: ending too" in supervised.output()


def test_the_report_of_a_worker_that_died_is_removed(supervise: Supervise) -> None:
    supervised = supervise()
    os.kill(supervised.pid("sender"), signal.SIGKILL)
    supervised.pid("sender", after=1)
    assert supervised.orders() == ["forget"]  # that of a worker before this start
    os.kill(supervised.pid("worker"), signal.SIGKILL)
    until(lambda: supervised.orders() == ["forget", "forget"], what="the order")


# ------------------------------------------------------------------ hangs


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_that_hangs_is_killed_and_started_again(name: str, supervise: Supervise) -> None:
    supervised = supervise()
    os.kill(supervised.pid(name), signal.SIGSTOP)
    stopped = time.monotonic()
    supervised.pid(name, after=1)
    assert time.monotonic() - stopped > (MAX_MISSED - 1) * INTERVAL
    assert f"the {name} hangs, as it gives no heartbeat: killing it" in supervised.output()
    assert len(supervised.starts(other(name))) == 1


def test_a_child_that_never_beats_hangs_too_but_has_longer_to_start(supervise: Supervise) -> None:
    code = "import os, time\nparent = os.getppid()\nwhile os.getppid() == parent: time.sleep(0.02)"
    began = time.monotonic()
    supervise(sender=code, bare="sender").until_it_logs("the sender hangs")
    assert time.monotonic() - began > (MAX_MISSED_AT_START - 1) * INTERVAL


def test_a_child_that_misses_some_beats_now_and_then_is_left_alone(supervise: Supervise) -> None:
    seldom = f"live(until=lambda: time.sleep({2.2 * INTERVAL}))"
    supervised = started(supervise, sender=seldom)
    time.sleep(4 * MAX_MISSED * INTERVAL)
    assert len(supervised.starts("sender")) == 1


def test_nobody_is_killed_after_the_supervisor_was_stopped_itself(supervise: Supervise) -> None:
    supervised = supervise()
    for name in CHILDREN:
        supervised.pid(name)
    supervised.process.send_signal(signal.SIGSTOP)
    time.sleep(2 * MAX_MISSED * INTERVAL)
    supervised.process.send_signal(signal.SIGCONT)
    time.sleep(2 * MAX_MISSED * INTERVAL)
    assert [len(supervised.starts(name)) for name in CHILDREN] == [1, 1]


def test_a_killed_child_that_does_not_end_holds_up_nobody_else(supervise: Supervise) -> None:
    supervised = started(supervise)
    (supervised.folder / "sleeping").touch()
    os.kill(supervised.pid("worker"), signal.SIGSTOP)
    supervised.until_it_logs("the worker hangs")
    os.kill(supervised.pid("sender"), signal.SIGKILL)
    supervised.pid("sender", after=1)
    used = processor_time(supervised)
    time.sleep(1)
    assert processor_time(supervised) - used < 0.1
    assert len(supervised.starts("worker")) == 1
    assert supervised.output().count("the worker hangs") == 1
    os.kill(supervised.pid("worker"), signal.SIGKILL)
    supervised.pid("worker", after=1)


# ------------------------------------------------------------------ loading


LOADS = "heartbeat.loading(); live(beats=False, until=lambda: exists('loaded')); heartbeat.loaded(); "


def test_a_child_that_loads_needs_no_beat_and_its_report_is_renewed_meanwhile(supervise: Supervise) -> None:
    supervised = supervise(worker=LOADS + "live()")
    until(lambda: supervised.orders().count("touch") > 2 * MAX_MISSED, what="the renewals")
    (supervised.folder / "loaded").touch()
    until(lambda: settled(supervised.orders), what="the end of the renewals")
    assert len(supervised.starts("worker")) == 1


def settled(read: Callable[[], object]) -> bool:
    """True when nothing changes for some checks."""
    before = read()
    time.sleep(4 * INTERVAL)
    return read() == before


def test_a_child_that_has_loaded_can_hang(supervise: Supervise) -> None:
    supervised = supervise(worker=LOADS + "live(beats=False)")
    (supervised.folder / "loaded").touch()
    supervised.pid("worker", after=1)
    assert "the worker hangs" in supervised.output()


@pytest.mark.parametrize(("death", "code"), [("os._exit(3)", "3"), ("os.kill(os.getpid(), signal.SIGKILL)", "-9")])
def test_the_next_start_gets_how_a_load_ended(death: str, code: str, supervise: Supervise) -> None:
    dies = f"heartbeat.loading()\nif not exists('mended'): {death}\n"
    lives = "heartbeat.loaded(); live()"
    supervised = supervise(worker=dies + lives)
    supervised.pid("worker", after=2)
    (supervised.folder / "mended").touch()
    until(lambda: "while loading the model; starting it again in 0.5 s" in supervised.output(), what="the log")
    assert [ended for _, ended in supervised.starts("worker")][:3] == ["-", code, code]
    # Its report stays until the next start reports the cause.
    assert "forget" not in supervised.orders()[1:]


def test_it_is_unset_once_a_child_has_loaded(supervise: Supervise) -> None:
    dies = "heartbeat.loading()\nif not exists('mended'): open('mended', 'w'); os._exit(3)\n"
    supervised = supervise(worker=dies + "heartbeat.loaded(); note('loaded'); live()")
    until(lambda: "worker loaded" in supervised.notes(), what="the load")
    os.kill(supervised.pid("worker", after=1), signal.SIGKILL)
    supervised.pid("worker", after=2)
    assert [ended for _, ended in supervised.starts("worker")] == ["-", "3", "-"]


# ------------------------------------------------------------------ stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_worker_and_then_the_sender(number: signal.Signals, supervise: Supervise) -> None:
    slowly = "on(signal.SIGTERM, lambda: (time.sleep(0.5), end())); live()"
    supervised = started(supervise, worker=slowly)
    supervised.process.send_signal(number)
    assert supervised.process.wait(30) == 0
    assert supervised.notes()[-2:] == ["worker ends", "sender ends"]
    assert supervised.orders() == ["forget"]


def test_a_stop_removes_the_report_of_a_worker_that_died_while_loading(supervise: Supervise) -> None:
    supervised = supervise(worker="heartbeat.loading()\nos._exit(3)\n")
    until(lambda: "while loading the model" in supervised.output(), what="the death")
    supervised.process.terminate()
    assert supervised.process.wait(30) == 0
    assert supervised.orders()[-1] == "forget"


def test_a_second_signal_changes_nothing(supervise: Supervise) -> None:
    counts = "on(signal.SIGTERM, lambda: (note('TERM'), open('told', 'w'))); live(until=lambda: exists('go')); end()"
    supervised = started(supervise, worker=counts)
    supervised.process.send_signal(signal.SIGTERM)
    until((supervised.folder / "told").exists, what="the worker to be told")
    for _ in range(3):
        supervised.process.send_signal(signal.SIGTERM)
    time.sleep(4 * INTERVAL)
    assert supervised.notes().count("worker TERM") == 1
    (supervised.folder / "go").touch()
    assert supervised.process.wait(30) == 0


def test_the_sender_is_kept_running_while_the_worker_ends_its_tasks(supervise: Supervise) -> None:
    waits = """
on(signal.SIGTERM, lambda: open("told", "w"))
live(until=lambda: exists("told"))
live(beats=False, until=lambda: exists("go"))
end()
"""
    supervised = started(supervise, worker=waits)
    supervised.process.send_signal(signal.SIGTERM)
    until((supervised.folder / "told").exists, what="the worker to be told")
    os.kill(supervised.pid("sender"), signal.SIGKILL)
    supervised.pid("sender", after=1)
    time.sleep(2 * MAX_MISSED * INTERVAL)  # a worker that ends its tasks may beat no more
    (supervised.folder / "go").touch()
    assert supervised.process.wait(30) == 0
    assert supervised.notes()[-2:] == ["worker ends", "sender ends"]


def test_a_stopped_worker_does_not_prevent_a_stop(supervise: Supervise) -> None:
    supervised = started(supervise, stop_timeout=4)
    os.kill(supervised.pid("worker"), signal.SIGSTOP)
    began = time.monotonic()
    supervised.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert supervised.stop() == 0  # another signal gives it no more time
    assert 2.9 < time.monotonic() - began < 4
    assert "sender ends" in supervised.notes()
    assert supervised.orders() == ["forget", "forget"]


def test_a_killed_worker_that_does_not_end_does_not_prevent_a_stop_either(supervise: Supervise) -> None:
    supervised = started(supervise, stop_timeout=4)
    (supervised.folder / "sleeping").touch()
    os.kill(supervised.pid("worker"), signal.SIGSTOP)
    began = time.monotonic()
    supervised.process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    used = processor_time(supervised)
    time.sleep(1)
    assert processor_time(supervised) - used < 0.1
    assert supervised.process.wait(30) == 0
    assert 3.4 < time.monotonic() - began < 4
    assert "sender ends" in supervised.notes()


def test_a_sender_that_does_not_end_is_killed_after_its_grace(supervise: Supervise) -> None:
    supervised = started(supervise, sender="on(signal.SIGTERM, lambda: note('stays')); live()")
    began = time.monotonic()
    assert supervised.stop() == 0
    assert 0.9 < time.monotonic() - began < 10
    assert "the sender has not ended in time: killing it" in supervised.output()


def test_a_stop_starts_nothing_that_waits_for_its_start(supervise: Supervise) -> None:
    supervised = supervise(worker="heartbeat.loading(); os._exit(3)")
    supervised.until_it_logs("starting it again in 0.5 s")
    assert supervised.stop() == 0
    assert len(supervised.starts("worker")) == 1


def test_a_lost_terminal_ends_nothing(supervise: Supervise) -> None:
    supervised = started(supervise)
    supervised.process.send_signal(signal.SIGHUP)
    for name in CHILDREN:
        os.kill(supervised.pid(name), signal.SIGHUP)
    time.sleep(4 * INTERVAL)
    assert supervised.process.poll() is None
    assert [len(supervised.starts(name)) for name in CHILDREN] == [1, 1]
