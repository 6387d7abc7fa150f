"""workers.py: the reports of processes, merged into one state for each worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from redis import Redis, RedisError

from app.serving.store import keys
from app.serving.store.workers import HEARTBEAT_INTERVAL, REPORT_TTL, WorkerRegistry, WorkerReport, WorkerState

NAME = "worker@iris"
ERROR, UP = WorkerState.ERROR, WorkerState.UP


@pytest.fixture
def reports(broker: Redis) -> WorkerRegistry:
    return WorkerRegistry(broker)


def state(reports: WorkerRegistry) -> tuple[str, str]:
    """State and cause of the one worker there is."""
    (report,) = reports.read()
    return report.state.value, report.cause


def test_no_worker_is_registered(reports: WorkerRegistry) -> None:
    assert reports.read() == []


def test_a_worker_whose_processes_load_is_loading(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[11, 12])
    assert reports.read() == [WorkerReport(name=NAME, state=WorkerState.LOADING)]


def test_a_worker_without_any_process_yet_is_loading(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[])
    assert state(reports) == ("LOADING", "")


def test_one_process_with_the_model_makes_the_worker_up(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[11], loading=[12])
    assert state(reports) == ("UP", "")


def test_a_hint_is_stored_on_a_line_below_the_cause(reports: WorkerRegistry, broker: Redis) -> None:
    reports.report_process(NAME, 1, WorkerState.ERROR, "ImportError: no", hint="Add it.")
    reports.heartbeat(NAME, up=[], loading=[1])
    assert broker.hget(keys.worker(NAME), "cause") == "ImportError: no\nAdd it."
    assert [report.cause for report in reports.read()] == ["ImportError: no"]


def test_a_failure_is_reported_with_its_cause(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[11, 12])
    reports.report_process(NAME, 11, ERROR, "FileNotFoundError: [Errno 2] no such file: './model.pkl'")
    assert state(reports) == ("ERROR", "FileNotFoundError: [Errno 2] no such file: './model.pkl'")


def test_a_failure_is_reported_while_the_process_retries(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[11])
    reports.report_process(NAME, 11, ERROR, "ValueError: no")
    reports.heartbeat(NAME, up=[], loading=[11])
    assert state(reports) == ("ERROR", "ValueError: no")


def test_a_failure_is_cleared_once_the_process_is_up(reports: WorkerRegistry) -> None:
    reports.report_process(NAME, 11, ERROR, "ValueError: no")
    reports.heartbeat(NAME, up=[11], loading=[])
    assert state(reports) == ("UP", "")
    reports.heartbeat(NAME, up=[], loading=[12])
    assert state(reports) == ("LOADING", "")


def test_one_process_up_outweighs_another_that_failed(reports: WorkerRegistry) -> None:
    reports.report_process(NAME, 11, ERROR, "ValueError: no")
    reports.heartbeat(NAME, up=[12], loading=[11])
    assert state(reports) == ("UP", "")


def test_warnings_of_the_last_process_that_loaded_are_in_the_report(reports: WorkerRegistry, broker: Redis) -> None:
    reports.report_process(NAME, 11, UP, warnings='{"shown": ["old"], "more": 0}')
    reports.report_process(NAME, 12, UP, warnings='{"shown": ["new"], "more": 0}')
    assert broker.hget(keys.worker(NAME), "warnings") == '{"shown": ["new"], "more": 0}'
    reports.deregister(NAME)
    assert broker.hget(keys.worker(NAME), "warnings") is None


def test_a_process_reports_itself_that_it_is_up(reports: WorkerRegistry) -> None:
    """It notices at once; its worker checks once a second."""
    reports.heartbeat(NAME, up=[], loading=[11, 12])
    reports.report_process(NAME, 11, UP)
    assert state(reports) == ("UP", "")
    reports.heartbeat(NAME, up=[], loading=[11, 12])
    assert state(reports) == ("UP", "")
    reports.heartbeat(NAME, up=[11, 12], loading=[])
    assert state(reports) == ("UP", "")


def test_a_process_that_is_up_after_its_failure_is_up(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[11])
    reports.report_process(NAME, 11, ERROR, "ValueError: no")
    reports.report_process(NAME, 11, UP)
    assert state(reports) == ("UP", "")


def test_a_process_that_was_up_and_died_is_up_no_more(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[11])
    reports.report_process(NAME, 11, UP)
    reports.heartbeat(NAME, up=[], loading=[12])
    assert state(reports) == ("LOADING", "")


def test_the_failure_reported_before_the_first_renewal_counts(reports: WorkerRegistry) -> None:
    """A process may fail before its worker has looked for the first time."""
    reports.report_process(NAME, 11, ERROR, "ImportError: no module")
    reports.heartbeat(NAME, up=[], loading=[11])
    assert state(reports) == ("ERROR", "ImportError: no module")


def test_a_process_that_died_while_loading_is_an_error(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[11])
    reports.heartbeat(NAME, up=[], loading=[12])
    assert state(reports) == ("ERROR", "a process died while loading the model")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (3, "exit code 3"),
        (0, "exit code 0"),
        (-9, "signal 9 (SIGKILL), as when memory runs out"),
        (-11, "signal 11 (SIGSEGV)"),
        (-99, "signal 99"),
    ],
)
def test_the_exit_of_a_loading_process_is_the_cause_where_it_is_known(
    reports: WorkerRegistry, code: int, words: str
) -> None:
    reports.heartbeat(NAME, up=[], loading=[11, 12])
    reports.heartbeat(NAME, up=[], loading=[12, 13], ended={11: code, 7: 1})
    assert state(reports) == ("ERROR", f"load_model ended its process with {words}")
    reports.heartbeat(NAME, up=[], loading=[12, 13])
    assert state(reports) == ("ERROR", f"load_model ended its process with {words}")


def test_an_exit_code_of_a_process_with_the_model_is_no_failure_to_load(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[11], loading=[])
    reports.heartbeat(NAME, up=[], loading=[12], ended={11: -9})
    assert state(reports) == ("LOADING", "")


def test_a_death_is_cleared_once_a_process_is_up(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[], loading=[11])
    reports.heartbeat(NAME, up=[], loading=[12])
    reports.heartbeat(NAME, up=[12], loading=[])
    reports.heartbeat(NAME, up=[], loading=[13])
    assert state(reports) == ("LOADING", "")


def test_a_process_with_the_model_that_died_is_no_failure_to_load(reports: WorkerRegistry) -> None:
    """As when a task kills its process: the next one loads the model."""
    reports.heartbeat(NAME, up=[11, 12], loading=[])
    reports.heartbeat(NAME, up=[12], loading=[13])
    assert state(reports) == ("UP", "")
    reports.heartbeat(NAME, up=[], loading=[13])
    assert state(reports) == ("LOADING", "")


def test_a_report_expires_when_it_is_not_renewed(reports: WorkerRegistry, redis: Redis) -> None:
    reports.heartbeat(NAME, up=[11], loading=[])
    assert 0 < int(redis.ttl(keys.worker(NAME))) <= REPORT_TTL
    redis.delete(keys.worker(NAME))  # what the expiry does
    assert reports.read() == []


def test_a_report_outlives_a_few_renewals_that_are_missed() -> None:
    assert REPORT_TTL >= 3 * HEARTBEAT_INTERVAL


def test_a_failure_renews_the_report(reports: WorkerRegistry, redis: Redis) -> None:
    reports.report_process(NAME, 11, ERROR, "ValueError: no")
    assert 0 < int(redis.ttl(keys.worker(NAME))) <= REPORT_TTL


def test_a_deregistered_worker_is_gone_with_its_failures(reports: WorkerRegistry, redis: Redis) -> None:
    reports.heartbeat(NAME, up=[], loading=[11])
    reports.report_process(NAME, 11, ERROR, "ValueError: no")
    reports.deregister(NAME)
    assert reports.read() == []
    assert redis.keys() == []


def test_workers_are_read_by_name(reports: WorkerRegistry) -> None:
    reports.heartbeat("worker@b", up=[11], loading=[])
    reports.heartbeat("worker@a", up=[], loading=[11])
    assert [(report.name, report.state.value) for report in reports.read()] == [
        ("worker@a", "LOADING"),
        ("worker@b", "UP"),
    ]


@pytest.mark.parametrize("cause", ["", "UP", "ERROR", "a: b, 50 % of {this}", "naïve ☃", "x" * 5000])
def test_a_cause_is_kept_word_for_word(reports: WorkerRegistry, cause: str) -> None:
    reports.report_process(NAME, 11, ERROR, cause)
    reports.heartbeat(NAME, up=[], loading=[11])
    assert state(reports) == ("ERROR", cause)


def test_workers_report_also_when_redis_is_at_its_memory_limit(
    reports: WorkerRegistry, memory_full: Callable[[], AbstractContextManager[None]]
) -> None:
    with memory_full():
        reports.heartbeat(NAME, up=[], loading=[11])
        assert state(reports) == ("LOADING", "")
        reports.report_process(NAME, 11, UP)
        assert state(reports) == ("UP", "")


def test_every_method_raises_when_redis_is_away(away: Redis) -> None:
    reports = WorkerRegistry(away)
    attempts: list[Callable[[], Any]] = [
        lambda: reports.heartbeat(NAME, up=[], loading=[]),
        lambda: reports.report_process(NAME, 1, ERROR, "no"),
        lambda: reports.deregister(NAME),
        lambda: reports.remove_process(NAME, 1),
        reports.read,
    ]
    for attempt in attempts:
        with pytest.raises(RedisError):
            attempt()


# The same worker on two hosts: containers of one service


@pytest.fixture
def two(broker: Redis) -> tuple[WorkerRegistry, WorkerRegistry]:
    return WorkerRegistry(broker, host="a"), WorkerRegistry(broker, host="b")


def test_hosts_do_not_disturb_each_others_reports(two: tuple[WorkerRegistry, WorkerRegistry]) -> None:
    one, other = two
    one.heartbeat("worker@iris", up=(), loading=(7,))
    other.heartbeat("worker@iris", up=(7,), loading=())
    other.heartbeat("worker@iris", up=(), loading=(8,))
    assert [report.state for report in one.read()] == [WorkerState.LOADING]
    one.heartbeat("worker@iris", up=(7,), loading=())
    assert [report.state for report in other.read()] == [WorkerState.UP]


def test_a_host_that_stops_removes_its_own_reports_alone(two: tuple[WorkerRegistry, WorkerRegistry]) -> None:
    one, other = two
    one.heartbeat("worker@iris", up=(7,), loading=())
    other.heartbeat("worker@iris", up=(), loading=(7,))
    one.deregister("worker@iris")
    assert [report.state for report in one.read()] == [WorkerState.LOADING]
    other.deregister("worker@iris")
    assert one.read() == []


def test_reports_of_a_host_that_is_gone_are_dropped(two: tuple[WorkerRegistry, WorkerRegistry], redis: Redis) -> None:
    one, other = two
    one.heartbeat("worker@iris", up=(7,), loading=())
    redis.hincrbyfloat(keys.worker("worker@iris"), "seen:a", -21)
    other.heartbeat("worker@iris", up=(), loading=(8,))
    assert [report.state for report in other.read()] == [WorkerState.LOADING]


# The main process loads the model itself (MODEL_SHARING=fork), and dies of it


def test_a_main_process_that_loads_the_model_replaces_what_an_earlier_one_reported(reports: WorkerRegistry) -> None:
    reports.heartbeat(NAME, up=[7], loading=[8])
    reports.begin_preload(NAME, 11)
    assert state(reports) == ("LOADING", "")
    reports.begin_preload(NAME, 12, "load_model ended its process with exit code 3")
    assert state(reports) == ("ERROR", "load_model ended its process with exit code 3")
    reports.remove_process(NAME, 12)
    reports.heartbeat(NAME, up=[13], loading=[])
    assert state(reports) == ("UP", "")


def test_a_death_while_loading_is_never_reported_as_loading(reports: WorkerRegistry, redis: Redis) -> None:
    reports.begin_preload(NAME, 11)
    with redis.monitor() as monitor:
        reports.begin_preload(NAME, 12, "it died")
        redis.echo("the end")
        seen: list[str] = []
        for command in monitor.listen():
            seen.append(command["command"].split()[0])
            if seen[-1] == "ECHO":
                break
    written = [name for name in seen if name in ("MULTI", "HDEL", "HSET", "HSETNX", "EXEC")]
    assert (written[0], written[-1], written.count("EXEC")) == ("MULTI", "EXEC", 1)
