"""times.py: times of a task, and the estimate of its end."""

from __future__ import annotations

import pytest

from app.serving.store.times import MIN_RUNS, QueueSpeed, Times, iso, read_speed, read_times

UP = {"state": "UP", "cause": "", "seen:host": "1.0", "process:host/1": "UP ", "process:host/2": "UP "}


@pytest.mark.parametrize(
    ("times", "waited", "ran"),
    [
        (Times(accepted=10, now=12.5), 2.5, None),
        (Times(accepted=10, started=11, now=12.5), 1, 1.5),
        (Times(accepted=10, started=11, ended=12, now=99), 1, 1),
        (Times(accepted=10, ended=12, now=99), 2, None),
        (Times(accepted=10, started=9, ended=8, now=99), 0, 0),
        (Times(started=11, now=12), None, 1),
        (Times(), None, None),
    ],
    ids=["waits", "runs", "has ended", "was cancelled while it waited", "clock set back", "other client's", "unknown"],
)
def test_what_a_task_waited_and_ran(times: Times, waited: float | None, ran: float | None) -> None:
    assert (times.waited, times.ran) == (waited, ran)


def test_times_are_read_from_the_fields_of_a_record() -> None:
    times = read_times({"status": "STARTED", "accepted": "10.25", "started": "11"}, 12.0)
    assert times == Times(accepted=10.25, started=11.0, now=12.0)


@pytest.mark.parametrize(
    ("processes", "claimed", "position", "seconds"),
    [
        (1, 0, 1, 10.0),
        (1, 1, 1, 15.0),
        (1, 1, 2, 25.0),
        (2, 2, 1, 15.0),
        (2, 2, 11, 65.0),
        (2, 0, 2, 10.0),
        (4, 4, 1, 15.0),
    ],
)
def test_the_end_is_estimated_from_place_processes_and_run_times(
    processes: int, claimed: int, position: int, seconds: float
) -> None:
    assert QueueSpeed(seconds=10, processes=processes, claimed=claimed).eta(position) == pytest.approx(seconds)


def test_the_speed_counts_the_processes_of_all_workers_that_are_up() -> None:
    loading = {"process:other/1": "LOADING", "process:other/2": "UP ", "process:other/3": "ERROR no model"}
    assert read_speed([str(MIN_RUNS), "0.5"], 3, [UP, loading]) == QueueSpeed(seconds=0.5, processes=3, claimed=3)


@pytest.mark.parametrize(
    ("known", "reports"),
    [
        ([None, None], [UP]),
        ([str(MIN_RUNS - 1), "0.5"], [UP]),
        (["100", "0.5"], []),
        (["100", "0.5"], [{"state": "UP"}]),
    ],
    ids=["nothing has run", "too little has run", "no worker", "no process"],
)
def test_without_enough_runs_or_any_process_nothing_is_estimated(
    known: list[str | None], reports: list[dict[str, str]]
) -> None:
    assert read_speed(known, 0, reports) is None


def test_a_time_is_shown_in_iso_8601() -> None:
    assert iso(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
    assert iso(None) is None
