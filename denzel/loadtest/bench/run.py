"""The bench: load on a running project, measured from each request to its result.

It leaves no task behind: what has not ended in time is cancelled, and its callback is awaited.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from denzel.backends.base import Backend
from denzel.errors import DenzelError, ServiceFailed, ServiceNotRunning
from denzel.loadtest import preflight
from denzel.loadtest.api import Api, parse_json, task_id_of
from denzel.loadtest.bench import bottleneck
from denzel.loadtest.bench.drain import Drain
from denzel.loadtest.bench.load import LoadGenerator, LoadProfile
from denzel.loadtest.bench.metrics import BenchReport, ErrorCount, histogram, latency
from denzel.loadtest.bench.sampler import SAMPLE_INTERVAL, Sampler
from denzel.loadtest.client import HttpClient, HttpResponse, NoResponse
from denzel.loadtest.receiver import Callback, CallbackReceiver
from denzel.loadtest.request_log import TASK_FAILED, RequestLog
from denzel.loadtest.target import Progress, Target, find_target
from denzel.project import lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import RESPONSE_KEY, Service, Status
from denzel.text import pluralize

#: Seconds that a request of `--sync` waits for its result.
_SYNC_TIMEOUT = 60


@dataclass(frozen=True, kw_only=True)
class BenchTimings:
    """Timeouts and intervals of a bench, in seconds."""

    first_task_timeout: float = 60
    #: For the tasks that have not ended when the sending is over; at least as long as the sending took.
    drain_timeout: float = 10
    #: After a cancel, the time without a callback that ends the wait for callbacks.
    idle_timeout: float = 5
    poll_interval: float = 0.05
    sample_interval: float = SAMPLE_INTERVAL


BENCH_TIMINGS = BenchTimings()


def bench(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    requests: Sequence[Mapping[str, Any]],
    profile: LoadProfile,
    synchronous: bool | None,
    receiver_port: int,
    read_status: Callable[[], Status | None],
    progress: Progress,
    timings: BenchTimings | None = None,
) -> BenchReport:
    """Apply the load of a profile to a running project, and measure it.

    `synchronous` is None for the project's own response mode. Ctrl-C ends it early, with what was measured until then.
    Raises ServiceNotRunning, RequestUnusable, ServiceFailed and PortTaken.
    """
    target = find_target(settings, read_status())
    # `denzel response` can set a running project to another mode than that of .env.
    mode = backend.redis("HMGET", RESPONSE_KEY, "mode")[0] or settings.response_mode
    bench_run = BenchRun(
        backend,
        target,
        requests,
        profile,
        synchronous=mode == "sync" if synchronous is None else synchronous,
        prefer="" if synchronous is None else f"wait={_SYNC_TIMEOUT}" if synchronous else "respond-async",
        receiver_port=receiver_port,
        progress=progress,
        timings=timings or BENCH_TIMINGS,
    )
    # After a first Ctrl-C the run cleans up; a second one skips the rest of that.
    with lock.exclusive(project.lock_file), suppress(KeyboardInterrupt):
        asyncio.run(bench_run.run())
    return bench_run.report(process_counts(settings))


def process_counts(settings: Settings) -> dict[Service, int]:
    """The number of processes of each service that can keep a core busy."""
    cores = os.cpu_count() or 1
    keys = {Service.API: "API_WORKERS", Service.DENZEL: "WORKER_CONCURRENCY"}
    return {Service.REDIS: 1} | {service: int(settings.texts[key] or cores) for service, key in keys.items()}


class BenchRun:
    """One run of a bench; `synchronous` is the expected response mode, until the first response shows the real one."""

    def __init__(
        self,
        backend: Backend,
        target: Target,
        requests: Sequence[Mapping[str, Any]],
        profile: LoadProfile,
        *,
        synchronous: bool,
        prefer: str,
        receiver_port: int,
        progress: Progress,
        timings: BenchTimings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._requests = requests
        self._profile = profile
        self._prefer = prefer
        self._progress = progress
        self._timings = timings
        self._clock = clock
        self._receiver = CallbackReceiver(target.listen, receiver_port, self._on_callback)
        self._client = HttpClient(*target.api)
        self._sampler = Sampler(backend, interval=timings.sample_interval)
        self._synchronous = synchronous
        # Under it, the first request can be sent again for the id of its task.
        self._idempotency_key = secrets.token_hex(16)
        self._began = self._ended = 0.0
        self._unfinished = 0
        self._interrupted = False

    async def run(self) -> None:
        """Check the first request, apply the load, and leave nothing behind; raises the errors of `bench`."""
        async with self._receiver, self._client:
            self._api = Api(
                self._client,
                self._requests,
                server=self._target.api,
                key=self._target.key,
                address=self._receiver.address(self._target.host, 0),
                # Without a callback, nothing would show that the task has ended.
                always=not self._synchronous,
            )
            self._log = RequestLog(synchronous=self._synchronous, has_callback=self._api.has_callback)
            self._generator = LoadGenerator(self._api, self._log, self._profile, prefer=self._prefer)
            self._drain = Drain(
                self._api,
                self._log,
                doing=self._progress.doing,
                poll_interval=self._timings.poll_interval,
                idle_timeout=self._timings.idle_timeout,
                clock=self._clock,
            )
            try:
                await self._check_first_request()
                await self._apply_load()
            except asyncio.CancelledError:
                self._interrupted = True
            finally:
                await self._ask_for_first_task()
                await self._drain.cancel_remaining()
                await self._generator.close()

    def report(self, processes: Mapping[Service, int]) -> BenchReport:
        """The measurements; raises KeyboardInterrupt when there are none, as it was interrupted before."""
        if not self._began:
            raise KeyboardInterrupt
        log, requests = self._log, self._log.requests[1:]
        seconds = max(self._ended - self._began, 1e-9)
        accepted = [(request.scheduled, request.accepted) for request in requests if request.accepted is not None]
        completed = [(request.scheduled, request.completed) for request in requests if request.completed is not None]
        end_to_end = [when - scheduled for scheduled, when in completed]
        rate, sent = self._profile.rate, len(requests)
        unsent = max(0, self._profile.due_within(min(seconds, self._profile.seconds)) - sent)
        usage, queue = self._sampler.cpu_usage, self._sampler.queue
        return BenchReport(
            mode="sync" if self._synchronous else "async",
            rate=rate,
            clients=self._profile.clients,
            seconds=seconds,
            sent=sent,
            unsent=unsent,
            accepted=len(accepted),
            completed=len(completed),
            failed=log.failed,
            accepted_per_second=sum(when <= self._ended for _, when in accepted) / seconds,
            completed_per_second=sum(when <= self._ended for _, when in completed) / seconds,
            accept=None if self._synchronous else latency([when - scheduled for scheduled, when in accepted]),
            end_to_end=latency(end_to_end),
            histogram=histogram(end_to_end),
            errors=[
                ErrorCount(kind=kind, count=count, first=log.first_errors[kind])
                for kind, count in log.errors.most_common()
            ],
            unfinished=self._unfinished,
            cancelled=sum(request.is_cancelled for request in requests),
            lost_sight=len(log.outstanding),
            queue=queue,
            processors=usage,
            verdict=bottleneck.judge(usage, queue, processes=processes, rate=rate, unsent=unsent, failed=log.failed),
            interrupted=self._interrupted,
        )

    async def _check_first_request(self) -> None:
        """Send one request alone, so that its errors are not taken for those of a load."""
        self._progress.doing("Sending a first request")
        timeout = self._timings.first_task_timeout
        request = self._log.begin(self._clock())
        try:
            async with asyncio.timeout(timeout):
                response = await self._api.predict(0, prefer=self._prefer, idempotency_key=self._idempotency_key)
        except NoResponse:
            host, port = self._target.api
            raise ServiceNotRunning(f"The api does not answer at {host}:{port}.", hint="denzel status") from None
        except TimeoutError:
            raise preflight.not_ended(timeout) from None
        if not self._log.record_response(request, response):
            raise _refusal(response)
        self._synchronous = not task_id_of(response) or response.status == HTTPStatus.ACCEPTED
        if not await self._drain.wait(timeout):
            if request.in_flight:
                await self._drain.poll(request)
                if request.ended is None:
                    raise preflight.not_ended(timeout)
            raise preflight.not_called_back(self._receiver.address(self._target.host, 0), timeout)
        if self._log.failed:
            raise preflight.failed(self._log.first_errors[TASK_FAILED])
        self._log.synchronous = self._synchronous
        self._log.errors.clear()

    async def _ask_for_first_task(self) -> None:
        """Find the task of the first request where the response never arrived, so that it can be cancelled."""
        for request in self._log.requests[:1]:
            if request.is_answered:
                return
            self._progress.doing("Asking which task the first request has become, to cancel it")
            # As long as the response might still have taken.
            left = request.scheduled + self._timings.first_task_timeout - self._clock()
            again = self._api.predict(0, prefer="respond-async", idempotency_key=self._idempotency_key)
            with suppress(NoResponse, TimeoutError):
                async with asyncio.timeout(max(self._timings.drain_timeout, left)):
                    self._log.record_response(request, await again)

    async def _apply_load(self) -> None:
        """Send by the profile, then wait for the ends."""
        seconds, rate, clients = self._profile.seconds, self._profile.rate, self._profile.clients
        load = f"requests of {pluralize(clients, 'client')}" if clients else f"{rate:g} requests per second"
        self._progress.doing(f"Sending {load} for {seconds:g} s")
        async with self._sampler:
            self._began = self._clock()
            try:
                await self._generator.run()
            finally:
                self._ended = self._clock()
                self._unfinished = self._log.unfinished
        if outstanding := len(self._log.outstanding):
            self._progress.doing(f"Waiting for {outstanding} requests that have not come to their end")
        await self._drain.wait(max(self._timings.drain_timeout, seconds))

    def _on_callback(self, callback: Callback, body: bytes) -> None:
        self._log.record_callback(callback, body)
        self._generator.on_callback(callback.number)


def _refusal(response: HttpResponse) -> DenzelError:
    """The error for a first request that was not accepted."""
    content = parse_json(response.body)
    if response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return preflight.refused(response.status, content)
    return ServiceFailed(
        f"The api answered the first request with {response.status}: {preflight.description(response.status, content)}",
        hint="denzel status, then denzel tasks and denzel logs --service api",
    )
