"""Which service a bench names as the bottleneck."""

from __future__ import annotations

import pytest

from denzel.loadtest.bench.bottleneck import judge
from denzel.loadtest.bench.metrics import Processors, Verdict, Waiting
from denzel.services import Service

PROCESSES = {Service.API: 1, Service.DENZEL: 4, Service.REDIS: 1}


def busy(*, generator: float = 0.1, others: float = 0.0, cores: int = 8, **services: float) -> Processors:
    return Processors(
        services=services, generator=generator, machine=sum(services.values()) + generator + others, cores=cores
    )


def verdict(
    processors: Processors | None,
    *,
    waiting: int = 0,
    taken: int = 0,
    rate: float | None = None,
    unsent: int = 0,
    failed: int = 0,
) -> Verdict:
    queue = [Waiting(at=at, tasks=waiting, taken=taken) for at in range(5)]
    return judge(processors, queue, processes=PROCESSES, rate=rate, unsent=unsent, failed=failed)


@pytest.mark.parametrize(
    ("processors", "named"),
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
def test_whoever_is_busy_all_the_time_is_the_bottleneck(processors: Processors, named: str) -> None:
    assert verdict(processors).bottleneck == named


def test_the_bench_says_that_it_was_the_bottleneck_itself() -> None:
    why = verdict(busy(generator=0.97, denzel=1.0)).why
    assert why == "denzel bench itself took 0.97 cores, and can send no more. The project can do more than this."


def test_a_service_that_is_at_its_limit_is_told_with_its_remedy() -> None:
    assert verdict(busy(api=0.95)).why == (
        "it kept 0.95 cores busy, with 1 process. Give it more processes: API_WORKERS in .env."
    )
    assert "with 4 processes" in verdict(busy(denzel=3.9)).why


def test_what_the_bench_took_of_a_full_machine_is_said() -> None:
    assert "denzel bench took 0.60" in verdict(busy(cores=2, denzel=1.2, api=0.2, generator=0.6)).why
    assert "denzel bench" not in verdict(busy(cores=2, denzel=1.6, api=0.3, generator=0.1)).why


def test_what_other_programs_took_of_a_full_machine_is_said() -> None:
    assert verdict(busy(cores=2, denzel=1.1, others=0.6)).why.endswith(" Other programs took 0.60.")


def test_tasks_that_wait_while_nobody_is_busy_wait_for_the_worker() -> None:
    found = verdict(busy(denzel=0.4), waiting=30)
    assert found.bottleneck == "denzel"
    assert found.why.startswith("30 tasks waited for it most of the time, while it took 0.40 cores.")


def test_tasks_that_the_worker_has_while_nobody_is_busy_wait_for_it_too() -> None:
    found = verdict(busy(denzel=0.1), taken=16)
    assert found.bottleneck == "denzel"
    assert found.why.startswith("it was at work on 16 tasks most of the time, while it took 0.10 cores.")


def test_fewer_tasks_than_processes_are_the_clients_doing() -> None:
    assert verdict(busy(denzel=0.1), taken=3).bottleneck == ""


def test_a_worker_that_keeps_up_with_a_rate_may_have_many_tasks() -> None:
    assert verdict(busy(denzel=0.1), taken=16, rate=50).bottleneck == ""


def test_a_queue_that_was_there_for_a_moment_is_none() -> None:
    queue = [Waiting(at=at, tasks=tasks) for at, tasks in enumerate([0, 90, 0, 0, 1])]
    assert judge(busy(denzel=0.4), queue, processes=PROCESSES, rate=None, unsent=0, failed=0).bottleneck == ""


def test_requests_without_a_free_connection_wait_for_the_api() -> None:
    assert verdict(busy(api=0.1), rate=100, unsent=50).bottleneck == "api"


@pytest.mark.parametrize("rate", [50, None])
def test_who_failed_has_not_kept_up(rate: float | None) -> None:
    found = verdict(busy(api=0.1), rate=rate, failed=51)
    assert found == Verdict(bottleneck="", why="51 requests failed, and nobody was busy all the time. Mend that first.")


def test_who_kept_up_has_no_bottleneck() -> None:
    assert verdict(busy(api=0.1), rate=50) == Verdict(
        bottleneck="", why="it kept up with 50 requests per second. Try a higher --rate."
    )
    assert verdict(busy(api=0.1)).why.endswith("Try more --clients.")


def test_the_queue_is_enough_where_nobody_tells_of_processors() -> None:
    assert verdict(None, waiting=9).bottleneck == "denzel"
    assert verdict(None).bottleneck == ""
