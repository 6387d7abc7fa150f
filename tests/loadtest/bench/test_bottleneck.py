"""Bottleneck analysis of a bench."""

from __future__ import annotations

import pytest

from denzel.loadtest.bench.bottleneck import judge
from denzel.loadtest.bench.metrics import CpuUsage, QueueSample, Verdict
from denzel.services import Service

PROCESSES = {Service.API: 1, Service.DENZEL: 4, Service.REDIS: 1}


def busy(*, generator: float = 0.1, others: float = 0.0, cores: int = 8, **services: float) -> CpuUsage:
    return CpuUsage(
        services=services, generator=generator, machine=sum(services.values()) + generator + others, cores=cores
    )


def verdict(
    usage: CpuUsage | None,
    *,
    waiting: int = 0,
    taken: int = 0,
    rate: float | None = None,
    unsent: int = 0,
    failed: int = 0,
) -> Verdict:
    queue = [QueueSample(at=at, tasks=waiting, taken=taken) for at in range(5)]
    return judge(usage, queue, processes=PROCESSES, rate=rate, unsent=unsent, failed=failed)


@pytest.mark.parametrize(
    ("usage", "bottleneck"),
    [
        (busy(api=0.95, denzel=1.0, redis=0.2), "api"),
        (busy(api=0.5, denzel=3.8, redis=0.2), "denzel"),
        (busy(api=0.5, denzel=1.0, redis=0.9), "redis"),
        (busy(generator=0.97, api=0.95, denzel=3.9), "bench"),
        (busy(cores=2, api=0.5, denzel=1.0, redis=0.2, generator=0.3), "denzel"),
        (busy(cores=2, api=0.9, denzel=0.7, redis=0.2, generator=0.2), "api"),
        (busy(cores=2, api=0.2, denzel=0.3, others=1.3), "machine"),
        (busy(cores=2, api=0.4, denzel=0.5, others=0.6, generator=0.4), "denzel"),
        (busy(api=0.2, denzel=0.3, others=0.5), ""),
    ],
)
def test_what_is_busy_all_the_time_is_the_bottleneck(usage: CpuUsage, bottleneck: str) -> None:
    assert verdict(usage).bottleneck == bottleneck


def test_the_bench_reports_itself_as_the_bottleneck() -> None:
    why = verdict(busy(generator=0.97, denzel=1.0)).why
    assert why == "denzel bench itself took 0.97 cores, and can send no more. The project can do more than this."


def test_a_service_at_its_limit_is_reported_with_its_remedy() -> None:
    assert verdict(busy(api=0.95)).why == (
        "it kept 0.95 cores busy, with 1 process. Give it more processes: API_WORKERS in .env."
    )
    assert "with 4 processes" in verdict(busy(denzel=3.9)).why


def test_the_share_of_the_bench_in_a_full_machine_is_reported() -> None:
    assert "denzel bench took 0.60" in verdict(busy(cores=2, denzel=1.2, api=0.2, generator=0.6)).why
    assert "denzel bench" not in verdict(busy(cores=2, denzel=1.6, api=0.3, generator=0.1)).why


def test_the_share_of_other_programs_in_a_full_machine_is_reported() -> None:
    assert verdict(busy(cores=2, denzel=1.1, others=0.6)).why.endswith(" Other programs took 0.60.")


def test_queued_tasks_on_an_idle_machine_wait_for_the_worker() -> None:
    found = verdict(busy(denzel=0.4), waiting=30)
    assert found.bottleneck == "denzel"
    assert found.why.startswith("30 tasks waited for it most of the time, while it took 0.40 cores.")


def test_taken_tasks_on_an_idle_machine_wait_for_the_worker_too() -> None:
    found = verdict(busy(denzel=0.1), taken=16)
    assert found.bottleneck == "denzel"
    assert found.why.startswith("it was at work on 16 tasks most of the time, while it took 0.10 cores.")


def test_fewer_tasks_than_processes_are_due_to_few_clients() -> None:
    assert verdict(busy(denzel=0.1), taken=3).bottleneck == ""


def test_a_worker_that_keeps_up_with_a_rate_may_have_taken_many_tasks() -> None:
    assert verdict(busy(denzel=0.1), taken=16, rate=50).bottleneck == ""


def test_a_short_peak_of_the_queue_is_no_bottleneck() -> None:
    queue = [QueueSample(at=at, tasks=tasks) for at, tasks in enumerate([0, 90, 0, 0, 1])]
    assert judge(busy(denzel=0.4), queue, processes=PROCESSES, rate=None, unsent=0, failed=0).bottleneck == ""


def test_requests_without_a_free_connection_wait_for_the_api() -> None:
    assert verdict(busy(api=0.1), rate=100, unsent=50).bottleneck == "api"


@pytest.mark.parametrize("rate", [50, None])
def test_a_project_with_failed_tasks_has_not_kept_up(rate: float | None) -> None:
    found = verdict(busy(api=0.1), rate=rate, failed=51)
    assert found == Verdict(
        bottleneck="", why="51 requests failed, and no service was busy all the time. Fix that first."
    )


def test_a_project_that_keeps_up_has_no_bottleneck() -> None:
    assert verdict(busy(api=0.1), rate=50) == Verdict(
        bottleneck="", why="it kept up with 50 requests per second. Try a higher --rate."
    )
    assert verdict(busy(api=0.1)).why.endswith("Try more --clients.")


def test_the_queue_suffices_without_the_cpu_usage() -> None:
    assert verdict(None, waiting=9).bottleneck == "denzel"
    assert verdict(None).bottleneck == ""
