"""The report of a drill, from tasks, callbacks and outages."""

from __future__ import annotations

from denzel.loadtest.drill.results import DrillReport, Outage, summarize
from denzel.loadtest.receiver import Callback
from denzel.loadtest.request_log import Request, RequestLog


def task(
    number: int, *callbacks: str, accepted: float = 0, ended: float | None = 1, status: str = "SUCCESS", **state: bool
) -> Request:
    """An accepted request, and the ids in its callbacks; "own" stands for the id of its task."""
    request = Request(number, 0, accepted=accepted, task_id=f"task-{number}", ended=ended, status=status, **state)
    request.callbacks = tuple(Callback(number, 2, one.replace("own", request.task_id)) for one in callbacks)
    return request


def summarized(requests: list[Request], *outages: Outage, interrupted: bool = False) -> DrillReport:
    log = RequestLog([{}], synchronous=False)
    log.requests = requests
    return summarize(log, outages, requested=len(requests), seconds=9, interrupted=interrupted)


def test_tasks_that_were_cancelled_or_never_ended_or_never_called_back_are_lost() -> None:
    tasks = [task(1, "own"), task(2, "own", ended=None, status="STARTED"), task(3, "own", status="REVOKED"), task(4)]
    report = summarized([*tasks, task(5, "own", status="FAILURE")])
    assert report.lost == ["task-2", "task-3", "task-4"]
    assert (report.completed, report.failed, report.called_back) == (3, 1, 4)


def test_what_is_in_flight_at_an_interrupt_is_not_lost() -> None:
    tasks = [
        task(1, "own"),
        task(2, ended=None, status="STARTED"),
        task(3),
        task(4, is_settled=True),
        task(5, status="REVOKED", is_settled=True),
        task(6, ended=None, status="PENDING", is_gone=True),
    ]
    report = summarized(tasks, interrupted=True)
    assert report.not_through == ["task-2", "task-3"]
    assert report.lost == ["task-4", "task-5", "task-6"]
    report = summarized(tasks)
    assert (report.not_through, len(report.lost)) == ([], 5)


def test_a_callback_before_the_response_to_its_request_is_no_second_task() -> None:
    unanswered = Request(2, 0, callbacks=(Callback(2, 2, "task-2"),))
    assert summarized([task(1, "own", "own"), unanswered]).made_twice == []
    assert summarized([task(1, "own", "task-x")]).made_twice == ["task-x"]


def test_the_slowest_recovery_of_a_part_is_reported() -> None:
    outages = [Outage(part="api", began=began, over=over) for began, over in ((10, 11), (20, 25), (30, 32))]
    report = summarized([], *outages)
    assert [(part.killed, part.recovered) for part in report.parts] == [(3, 5)]
    assert summarized([], *outages, Outage(part="api", began=40, over=None)).parts[0].recovered is None


def test_a_part_has_caught_up_when_the_tasks_accepted_before_have_ended() -> None:
    tasks = [task(1, ended=9), task(2, accepted=5, ended=14), task(3, accepted=11, ended=90), task(4, ended=None)]
    assert summarized(tasks, Outage(part="denzel", began=10, over=11)).parts[0].caught_up == 4
    assert summarized(tasks[:1], Outage(part="denzel", began=10, over=11)).parts[0].caught_up is None
