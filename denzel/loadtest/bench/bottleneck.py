"""Bottleneck analysis: the service that limits the throughput of a run, by its CPU usage and the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_high

from denzel.loadtest.bench.metrics import CpuUsage, QueueSample, Verdict
from denzel.services import Service
from denzel.text import pluralize

#: Shares of their cores from which the bench, a service and the machine are saturated.
_GENERATOR_LIMIT = 0.9
_SERVICE_LIMIT = 0.85
_MACHINE_LIMIT = 0.85

#: Tasks that make a queue, when so many waited in half of the samples.
_QUEUE_LENGTH = 2

_REMEDIES = {
    Service.API: "Give it more processes: API_WORKERS in .env.",
    Service.DENZEL: "Give it more processes: WORKER_CONCURRENCY in .env; or make predictions cheaper.",
    Service.REDIS: "It has one process; smaller requests and results cost it less.",
}


def judge(
    usage: CpuUsage | None,
    queue: Sequence[QueueSample],
    *,
    processes: Mapping[Service, int],
    rate: float | None,
    unsent: int,
    failed: int,
) -> Verdict:
    """The verdict on a run of services with so many `processes`, each of which can keep one core busy.

    `unsent` requests found no free connection. `failed` is the number of failed tasks.
    """
    if usage is not None and (verdict := _saturated(usage, processes)):
        return verdict
    # 0 for a run without samples.
    waiting = median_high([sample.tasks for sample in queue] or [0])
    taken = median_high([sample.taken for sample in queue] or [0])
    if waiting >= _QUEUE_LENGTH:
        return _slow_worker(f"{waiting} tasks waited for it most of the time", usage)
    # With predict_batch, a process takes all that waits.
    if rate is None and taken >= processes.get(Service.DENZEL, 1):
        return _slow_worker(f"it was at work on {pluralize(taken, 'task')} most of the time", usage)
    if unsent:
        return Verdict(
            bottleneck=Service.API.value,
            why="every connection waited for its answer, and no service was busy all the time."
            " More requests can wait at once: API_THREADS and API_WORKERS in .env.",
        )
    if failed:
        return Verdict(
            bottleneck="",
            why=f"{pluralize(failed, 'request')} failed, and no service was busy all the time. Fix that first.",
        )
    if rate is not None:
        return Verdict(bottleneck="", why=f"it kept up with {rate:g} requests per second. Try a higher --rate.")
    return Verdict(bottleneck="", why="no service was busy all the time. Try more --clients.")


def _saturated(usage: CpuUsage, processes: Mapping[Service, int]) -> Verdict | None:
    """The verdict by CPU usage alone: the bench, the machine, or the service that is nearest to its limit."""
    if usage.generator >= _GENERATOR_LIMIT:
        return Verdict(
            bottleneck="bench",
            why=f"denzel bench itself took {usage.generator:.2f} cores, and can send no more. The project can"
            " do more than this.",
        )
    if usage.machine >= _MACHINE_LIMIT * usage.cores:
        return _full_machine(usage)
    service = max(_REMEDIES, key=lambda service: _share(service, usage, processes))
    if _share(service, usage, processes) < _SERVICE_LIMIT:
        return None
    cores, number = usage.services[service.value], pluralize(processes.get(service, 1), "process")
    return Verdict(bottleneck=service.value, why=f"it kept {cores:.2f} cores busy, with {number}. {_REMEDIES[service]}")


def _full_machine(usage: CpuUsage) -> Verdict:
    """The verdict on a machine without an idle core: the service that used most, or programs of others."""
    if usage.others > sum(usage.services.values()):
        return Verdict(
            bottleneck="machine",
            why=f"other programs took {usage.others:.2f} of its {pluralize(usage.cores, 'core')}, and none"
            " was left. Measure again when they are quiet.",
        )
    busiest = max(_REMEDIES, key=lambda service: usage.services.get(service.value, 0)).value
    took, notable = usage.services.get(busiest, 0), 0.1 * usage.cores
    notes = [
        f" denzel bench took {usage.generator:.2f}, which a client elsewhere would leave to the project."
        if usage.generator > notable
        else "",
        f" Other programs took {usage.others:.2f}." if usage.others > notable else "",
    ]
    return Verdict(
        bottleneck=busiest,
        why=f"every core of the machine was busy ({usage.cores}), and it took most: {took:.2f}.{''.join(notes)}",
    )


def _slow_worker(evidence: str, usage: CpuUsage | None) -> Verdict:
    name = Service.DENZEL.value
    share = f", while it took {usage.services[name]:.2f} cores" if usage and name in usage.services else ""
    return Verdict(
        bottleneck=name,
        why=f"{evidence}{share}. One of its processes is at its limit, or predictions wait for something else than a"
        " processor. Try other numbers of processes: WORKER_CONCURRENCY in .env.",
    )


def _share(service: Service, usage: CpuUsage, processes: Mapping[Service, int]) -> float:
    """The share that a service used of the cores that its processes can use."""
    usable = min(processes.get(service, 1), usage.cores)
    return usage.services.get(service.value, 0) / usable
