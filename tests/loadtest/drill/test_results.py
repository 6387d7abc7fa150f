"""The report of a drill, from tasks, callbacks and outages."""

from __future__ import annotations

from dataclasses import replace

from denzel.loadtest.drill.results import CallbackReceipt, DrillReport, Outage, TrackedTask, summarize


def task(number: int, *, accepted: float = 0, ended: float | None = 1, status: str = "SUCCESS") -> TrackedTask:
    return TrackedTask(number=number, task_id=f"task-{number}", accepted=accepted, ended=ended, status=status)


def receipt(number: int, *, when: float = 2, task_id: str | None = None) -> CallbackReceipt:
    return CallbackReceipt(when=when, number=number, task_id=task_id or f"task-{number}")


def summarized(
    tasks: list[TrackedTask], receipts: list[CallbackReceipt], *outages: Outage, interrupted: bool = False
) -> DrillReport:
    rest = {"refused": {}, "requested": len(tasks), "seconds": 9, "interrupted": interrupted}
    return summarize(tasks=tasks, receipts=receipts, outages=outages, **rest)


def test_tasks_that_were_cancelled_or_never_ended_or_never_called_back_are_lost() -> None:
    tasks = [task(1), task(2, ended=None, status="STARTED"), task(3, status="REVOKED"), task(4)]
    tasks.append(task(5, status="FAILURE"))
    report = summarized(tasks, [receipt(number) for number in (1, 2, 3, 5)])
    assert report.lost == ["task-2", "task-3", "task-4"]
    assert (report.completed, report.failed, report.called_back) == (3, 1, 4)


def test_what_is_in_flight_at_an_interrupt_is_not_lost() -> None:
    tasks = [
        task(1),
        task(2, ended=None, status="STARTED"),
        task(3),
        replace(task(4), settled=True),
        replace(task(5, status="REVOKED"), settled=True),
        replace(task(6, ended=None, status="PENDING"), gone=True),
    ]
    report = summarized(tasks, [receipt(1)], interrupted=True)
    assert report.not_through == ["task-2", "task-3"]
    assert report.lost == ["task-4", "task-5", "task-6"]
    report = summarized(tasks, [receipt(1)])
    assert (report.not_through, len(report.lost)) == ([], 5)


def test_a_callback_before_the_response_to_its_request_is_no_second_task() -> None:
    assert summarized([task(1)], [receipt(1), receipt(2)]).made_twice == []
    assert summarized([task(1)], [receipt(1), receipt(1, task_id="task-x")]).made_twice == ["task-x"]


def test_the_slowest_recovery_of_a_part_is_reported() -> None:
    outages = [Outage(part="api", began=began, over=over) for began, over in ((10, 11), (20, 25), (30, 32))]
    report = summarized([], [], *outages)
    assert [(part.killed, part.recovered) for part in report.parts] == [(3, 5)]
    assert summarized([], [], *outages, Outage(part="api", began=40, over=None)).parts[0].recovered is None


def test_a_part_has_caught_up_when_the_tasks_accepted_before_have_ended() -> None:
    tasks = [task(1, ended=9), task(2, accepted=5, ended=14), task(3, accepted=11, ended=90), task(4, ended=None)]
    assert summarized(tasks, [], Outage(part="denzel", began=10, over=11)).parts[0].caught_up == 4
    assert summarized(tasks[:1], [], Outage(part="denzel", began=10, over=11)).parts[0].caught_up is None


def test_a_receiver_has_caught_up_when_it_has_the_callbacks_it_missed() -> None:
    receipts = [receipt(1, when=3), receipt(1, when=80), receipt(2, when=17), receipt(3, when=60)]
    tasks = [task(1), task(2), task(3, accepted=11)]
    outage = Outage(part="receiver (closed)", began=10, over=11, of_receiver=True)
    assert summarized(tasks, receipts, outage).parts[0].caught_up == 7
