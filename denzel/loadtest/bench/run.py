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
from denzel.loadtest.bench.drain import BenchTimings, Drain
from denzel.loadtest.bench.metrics import BenchReport, ErrorCount, latency
from denzel.loadtest.bench.sampler import Sampler
from denzel.loadtest.client import HttpClient, HttpResponse, NoResponse
from denzel.loadtest.load import LoadGenerator, LoadProfile
from denzel.loadtest.receiver import CallbackReceiver
from denzel.loadtest.request_log import TASK_FAILED, RequestLog
from denzel.loadtest.target import Progress, Target, find_target
from denzel.project import lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import RESPONSE_KEY, Service, Status
from denzel.text import pluralize

#: Seconds that a request of `--sync` waits for its result.
_SYNC_TIMEOUT = 60


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
        backend=backend,
        target=target,
        requests=requests,
        profile=profile,
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


@dataclass(kw_only=True)
class BenchRun:
    """One run of a bench; `synchronous` is the expected response mode, until the first response shows the real one."""

    backend: Backend
    target: Target
    requests: Sequence[Mapping[str, Any]]
    profile: LoadProfile
    synchronous: bool
    prefer: str
    receiver_port: int
    progress: Progress
    timings: BenchTimings
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if not self.synchronous:
            # Without a callback, nothing would show that the task has ended.
            self.requests = [{**request, "callback_uri": ""} for request in self.requests]
        self._log = RequestLog(self.requests, synchronous=self.synchronous)
        self._receiver = CallbackReceiver(self.target.listen, self.receiver_port, self._log.record_callback)
        self._sampler = Sampler(self.backend, interval=self.timings.sample_interval)
        # Under it, the first request can be sent again for the id of its task.
        self._idempotency_key = secrets.token_hex(16)
        self._began = self._ended = 0.0
        self._unfinished = 0
        self._interrupted = False

    async def run(self) -> None:
        """Check the first request, apply the load, and leave nothing behind; raises the errors of `bench`."""
        async with self._receiver, HttpClient(*self.target.api) as client:
            address = self._receiver.address(self.target.host, 0)
            api = Api(client, self.requests, server=self.target.api, key=self.target.key, address=address)
            async with LoadGenerator(api, self._log, prefer=self.prefer) as self._load:
                self._drain = Drain(self._load, self._log, self.timings, self.progress.doing, self.clock)
                try:
                    await self._check_first_request(address)
                    await self._apply_load()
                except asyncio.CancelledError:
                    self._interrupted = True
                finally:
                    await self._ask_for_first_task()
                    await self._drain.cancel_remaining()

    def report(self, processes: Mapping[Service, int]) -> BenchReport:
        """The measurements; raises KeyboardInterrupt when there are none, as it was interrupted before."""
        if not self._began:
            raise KeyboardInterrupt
        log, requests = self._log, self._log.requests[1:]
        seconds = max(self._ended - self._began, 1e-9)
        accepted = [(request.scheduled, request.accepted) for request in requests if request.accepted is not None]
        completed = [(request.scheduled, request.completed) for request in requests if request.completed is not None]
        rate, sent = self.profile.rate, len(requests)
        unsent = max(0, self.profile.due_within(min(seconds, self.profile.seconds)) - sent)
        usage, queue = self._sampler.cpu_usage, self._sampler.queue
        return BenchReport(
            mode="sync" if log.synchronous else "async",
            rate=rate,
            clients=self.profile.clients,
            seconds=seconds,
            sent=sent,
            unsent=unsent,
            accepted=len(accepted),
            completed=len(completed),
            failed=log.failed,
            accepted_per_second=sum(when <= self._ended for _, when in accepted) / seconds,
            completed_per_second=sum(when <= self._ended for _, when in completed) / seconds,
            accept=None if log.synchronous else latency([when - scheduled for scheduled, when in accepted]),
            end_to_end=latency([when - scheduled for scheduled, when in completed]),
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

    async def _check_first_request(self, address: str) -> None:
        """Send one request alone, so that its errors are not taken for those of a load."""
        self.progress.doing("Sending a first request")
        timeout = self.timings.first_task_timeout
        request = self._log.begin(self.clock())
        try:
            async with asyncio.timeout(timeout):
                response = await self._load.api.predict(0, prefer=self.prefer, idempotency_key=self._idempotency_key)
        except NoResponse:
            host, port = self.target.api
            raise ServiceNotRunning(f"The api does not answer at {host}:{port}.", hint="denzel status") from None
        except TimeoutError:
            raise preflight.not_ended(timeout) from None
        if not self._log.record_response(request, response):
            raise _refusal(response)
        if not await self._drain.wait(timeout):
            if request.in_flight:
                await self._load.poll(request)
                if request.ended is None:
                    raise preflight.not_ended(timeout)
            raise preflight.not_called_back(address, timeout)
        if self._log.failed:
            raise preflight.failed(self._log.first_errors[TASK_FAILED])
        self._log.synchronous = not task_id_of(response) or response.status == HTTPStatus.ACCEPTED
        self._log.errors.clear()

    async def _ask_for_first_task(self) -> None:
        """Find the task of the first request where the response never arrived, so that it can be cancelled."""
        request = next(iter(self._log.requests), None)
        if request is None or request.is_answered:
            return
        self.progress.doing("Asking which task the first request has become, to cancel it")
        # As long as the response might still have taken.
        left = request.scheduled + self.timings.first_task_timeout - self.clock()
        with suppress(NoResponse, TimeoutError):
            async with asyncio.timeout(max(self.timings.drain_timeout, left)):
                again = await self._load.api.predict(0, prefer="respond-async", idempotency_key=self._idempotency_key)
                self._log.record_response(request, again)

    async def _apply_load(self) -> None:
        """Send by the profile, then wait for the ends."""
        seconds, rate, clients = self.profile.seconds, self.profile.rate, self.profile.clients
        load = f"requests of {pluralize(clients, 'client')}" if clients else f"{rate:g} requests per second"
        self.progress.doing(f"Sending {load} for {seconds:g} s")
        async with self._sampler:
            self._began = self.clock()
            try:
                await self._load.run(self.profile)
            finally:
                self._ended = self.clock()
                self._unfinished = self._log.unfinished
        if outstanding := len(self._log.outstanding):
            self.progress.doing(f"Waiting for {outstanding} requests that have not come to their end")
        await self._drain.wait(max(self.timings.drain_timeout, seconds))


def _refusal(response: HttpResponse) -> DenzelError:
    """The error for a first request that was not accepted."""
    content = parse_json(response.body)
    if response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return preflight.refused(response.status, content)
    return ServiceFailed(
        f"The api answered the first request with {response.status}: {preflight.description(response.status, content)}",
        hint="denzel status, then denzel tasks and denzel logs --service api",
    )
