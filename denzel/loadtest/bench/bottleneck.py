"""What keeps a project from doing more: judged by who was busy, and whether tasks had to wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from denzel.loadtest.bench.metrics import Processors, Verdict, Waiting
from denzel.services import Service
from denzel.text import pluralize

#: Whoever is busy for so much of its time is at its limit.
_GENERATOR_LIMIT = 0.9
_SERVICE_LIMIT = 0.85
_MACHINE_LIMIT = 0.85

#: A queue in which at least so many tasks waited, in half of the looks, is one.
_A_QUEUE = 2

_REMEDIES = {
    Service.API: "Give it more processes: API_WORKERS in .env.",
    Service.DENZEL: "Give it more processes: WORKER_CONCURRENCY in .env; or make predictions cheaper.",
    Service.REDIS: "It has one process; smaller requests and results cost it less.",
}


def judge(
    processors: Processors | None,
    queue: Sequence[Waiting],
    *,
    processes: Mapping[Service, int],
    rate: float | None,
    unsent: int,
    failed: int,
) -> Verdict:
    """The verdict on a run, in which services had so many processes, each of which can keep one core busy.

    Of its requests, some were `unsent` because none of the connections was free, and some `failed`.
    """
    waited, taken = _middle(look.tasks for look in queue), _middle(look.taken for look in queue)
    if processors is not None:
        if processors.generator >= _GENERATOR_LIMIT:
            return Verdict(
                bottleneck="bench",
                why=f"denzel bench itself took {processors.generator:.2f} cores, and can send no more. The project can"
                " do more than this.",
            )
        busiest = max(_REMEDIES, key=lambda service: processors.services.get(service.value, 0))
        took = processors.services.get(busiest.value, 0)
        if processors.machine >= _MACHINE_LIMIT * processors.cores:
            return _full_machine(processors, busiest)
        for service in sorted(_REMEDIES, key=lambda service: -_share(service, processors, processes)):
            if _share(service, processors, processes) >= _SERVICE_LIMIT:
                number = processes.get(service, 1)
                took = processors.services[service.value]
                return Verdict(
                    bottleneck=service.value,
                    why=f"it kept {took:.2f} cores busy, with {pluralize(number, 'process')}. {_REMEDIES[service]}",
                )
    if waited >= _A_QUEUE:
        return _slow_worker(f"{waited} tasks waited for it most of the time", processors)
    # With predict_batch, a process takes all that waits.
    if rate is None and taken >= processes.get(Service.DENZEL, 1):
        return _slow_worker(f"it was at work on {pluralize(taken, 'task')} most of the time", processors)
    if unsent:
        return Verdict(
            bottleneck=Service.API.value,
            why="every connection waited for its answer, and no service was busy all the time."
            " More requests can wait at once: API_THREADS and API_WORKERS in .env.",
        )
    if failed:
        return Verdict(
            bottleneck="",
            why=f"{pluralize(failed, 'request')} failed, and nobody was busy all the time. Mend that first.",
        )
    if rate is not None:
        return Verdict(bottleneck="", why=f"it kept up with {rate:g} requests per second. Try a higher --rate.")
    return Verdict(bottleneck="", why="nobody was busy all the time. Try more --clients.")


def _slow_worker(seen: str, processors: Processors | None) -> Verdict:
    known = processors is not None and Service.DENZEL.value in processors.services
    share = f", while it took {processors.services[Service.DENZEL.value]:.2f} cores" if processors and known else ""
    return Verdict(
        bottleneck=Service.DENZEL.value,
        why=f"{seen}{share}. One of its processes is at its limit, or predictions wait for something else than a"
        " processor. Try other numbers of processes: WORKER_CONCURRENCY in .env.",
    )


def _full_machine(processors: Processors, busiest: Service) -> Verdict:
    """All cores were busy: the service that took most stands in the way, or programs that are none of the project's."""
    took = processors.services.get(busiest.value, 0)
    if processors.others > sum(processors.services.values()):
        return Verdict(
            bottleneck="machine",
            why=f"other programs took {processors.others:.2f} of its {pluralize(processors.cores, 'core')}, and none"
            " was left. Measure again when they are quiet.",
        )
    notable = 0.1 * processors.cores
    notes = [
        f" denzel bench took {processors.generator:.2f}, which a client elsewhere would leave to the project."
        if processors.generator > notable
        else "",
        f" Other programs took {processors.others:.2f}." if processors.others > notable else "",
    ]
    return Verdict(
        bottleneck=busiest.value,
        why=f"every core of the machine was busy ({processors.cores}), and it took most: {took:.2f}.{''.join(notes)}",
    )


def _share(service: Service, processors: Processors, processes: Mapping[Service, int]) -> float:
    """How much of the cores that its processes can use a service took."""
    usable = min(processes.get(service, 1), processors.cores)
    return processors.services.get(service.value, 0) / usable


def _middle(counts: Iterable[int]) -> int:
    """The count in the middle one of the looks."""
    ordered = sorted(counts)
    return ordered[len(ordered) // 2] if ordered else 0
