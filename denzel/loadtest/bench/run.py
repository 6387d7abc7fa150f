"""The bench: real requests to a running project, through to their results, and who was busy meanwhile.

It leaves no task behind: what has not ended in time is cancelled, and its callback is waited for.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol

from denzel.backends.base import Backend
from denzel.errors import DenzelError, ServiceFailed, ServiceNotRunning
from denzel.loadtest import preflight
from denzel.loadtest.bench import bottleneck
from denzel.loadtest.bench.drain import Drain
from denzel.loadtest.bench.load import Generator, LoadProfile
from denzel.loadtest.bench.metrics import BenchReport, histogram, latency
from denzel.loadtest.bench.request_log import RequestLog, read_json, task_of
from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.bench.sampler import SAMPLE_INTERVAL, Sampler
from denzel.loadtest.http.client import Client, HttpResponse, NoAnswer
from denzel.loadtest.http.sink import CallbackSink
from denzel.loadtest.target import Target, find_target
from denzel.project import lock
from denzel.project.dotenv import Settings
from denzel.project.folder import Project
from denzel.services import RESPONSE_KEY, TERMINAL_STATES, Service, Status
from denzel.text import pluralize

#: Seconds that a request of `--sync` waits for its result, at most.
SYNC_WAIT = 60


@dataclass(frozen=True, kw_only=True)
class BenchTimes:
    """Seconds: how long a bench waits for what."""

    #: The first task must be done within so long.
    first: float = 60
    #: What has not ended when the sending is over may take so long, and not less than the sending took.
    rest: float = 10
    #: After a cancel, callbacks are waited for until none has come for so long.
    quiet: float = 5
    look: float = 0.05
    gauges: float = SAMPLE_INTERVAL


TIMES = BenchTimes()


class BenchProgress(Protocol):
    """Who is told what the bench is doing."""

    def doing(self, text: str) -> None:
        """The bench begins something."""


def bench(
    project: Project,
    backend: Backend,
    settings: Settings,
    *,
    requests: Sequence[Mapping[str, Any]],
    plan: LoadProfile,
    synchronous: bool | None,
    receiver_port: int,
    look: Callable[[], Status | None],
    progress: BenchProgress,
    times: BenchTimes | None = None,
) -> BenchReport:
    """Send requests to a running project by the plan, and say how it went.

    `synchronous` is None for the mode in which the project answers. Ctrl-C ends it early, with what it has seen. Raises
    ServiceNotRunning, RequestUnusable, ServiceFailed and PortTaken.
    """
    target = find_target(settings, look())
    # The running project may have been told another mode than .env says.
    mode = backend.redis("HMGET", RESPONSE_KEY, "mode")[0] or settings.response_mode
    course = BenchRun(
        backend,
        target,
        requests,
        plan,
        synchronous=mode == "sync" if synchronous is None else synchronous,
        prefer="" if synchronous is None else f"wait={SYNC_WAIT}" if synchronous else "respond-async",
        receiver_port=receiver_port,
        progress=progress,
        times=times or TIMES,
    )
    # A second Ctrl-C leaves undone what the first one left to do.
    with lock.exclusive(project.lock_file), suppress(KeyboardInterrupt):
        asyncio.run(course.run())
    return course.figures(processes(settings))


def processes(settings: Settings) -> dict[Service, int]:
    """How many processes services have that can keep a core busy each."""
    cores = os.cpu_count() or 1
    keys = {Service.API: "API_WORKERS", Service.DENZEL: "WORKER_CONCURRENCY"}
    return {Service.REDIS: 1} | {service: int(settings.texts[key] or cores) for service, key in keys.items()}


class BenchRun:
    """One bench on its way; `synchronous` is how answers should be, until the first one tells how they are."""

    def __init__(
        self,
        backend: Backend,
        target: Target,
        requests: Sequence[Mapping[str, Any]],
        plan: LoadProfile,
        *,
        synchronous: bool,
        prefer: str,
        receiver_port: int,
        progress: BenchProgress,
        times: BenchTimes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._requests = requests
        self._plan = plan
        self._prefer = prefer
        self._progress = progress
        self._times = times
        self._clock = clock
        self._sink = CallbackSink(target.listen, receiver_port, self._take_callback)
        self._client = Client(*target.api)
        self._gauges = Sampler(backend, every=times.gauges)
        self._synchronous = synchronous
        self._first: RequestLog | None = None
        self._record: RequestLog | None = None
        self._began = self._over = 0.0
        self._unfinished = 0
        self._interrupted = False

    async def run(self) -> None:
        """Try the first request, send by the plan, and leave nothing behind; raises what `bench` does."""
        async with self._sink, self._client:
            prepare = partial(
                RequestTemplates,
                server=self._target.api,
                key=self._target.key,
                address=self._sink.address(self._target.host, 0),
                # Without a callback, nobody would tell when the task has ended.
                always=not self._synchronous,
            )
            self._prepared = prepare(self._requests, prefer=self._prefer)
            # With a key the first request can be sent again, to learn which task it has become.
            trying = partial(prepare, self._requests[:1], once=secrets.token_hex(16))
            self._trial, self._again = (trying(prefer=prefer).predict(0) for prefer in (self._prefer, "respond-async"))
            self._ends = Drain(
                self._client,
                self._prepared,
                doing=self._progress.doing,
                look=self._times.look,
                quiet=self._times.quiet,
                clock=self._clock,
            )
            self._first = RequestLog(synchronous=self._synchronous, has_callback=self._prepared.has_callback)
            try:
                await self._try(self._first)
                await self._send()
            except DenzelError:
                await self._leave(self._first)
                raise
            except asyncio.CancelledError:
                self._interrupted = True
                await self._leave(self._first)

    def figures(self, processes: Mapping[Service, int]) -> BenchReport:
        """What was measured; raises KeyboardInterrupt when nothing was, for that is why."""
        record = self._record
        if record is None:
            raise KeyboardInterrupt
        seconds = max(self._over - self._began, 1e-9)
        accepted = sum(when <= self._over for when in record.accepted.values())
        completed = sum(when <= self._over for when in record.completed.values())
        end_to_end = record.end_to_end_times()
        unsent = max(0, self._plan.due(min(seconds, self._plan.seconds)) - len(record.intended))
        busy = self._gauges.processors
        return BenchReport(
            mode="sync" if self._synchronous else "async",
            rate=self._plan.rate,
            clients=self._plan.clients,
            seconds=seconds,
            sent=len(record.intended),
            unsent=unsent,
            accepted=len(record.accepted),
            completed=len(record.completed),
            failed=record.failed,
            accepted_per_second=accepted / seconds,
            completed_per_second=completed / seconds,
            accept=None if self._synchronous else latency(record.accept_times()),
            end_to_end=latency(end_to_end),
            histogram=histogram(end_to_end),
            errors=record.errors,
            unfinished=self._unfinished,
            cancelled=len(record.cancelled),
            lost_sight=record.outstanding,
            queue=self._gauges.queue,
            processors=busy,
            verdict=bottleneck.judge(
                busy, self._gauges.queue, processes=processes, rate=self._plan.rate, unsent=unsent, failed=record.failed
            ),
            interrupted=self._interrupted,
        )

    async def _try(self, record: RequestLog) -> None:
        """One request from end to end: what fails now fails for another reason than load."""
        self._progress.doing("Sending a first request")
        within = self._times.first
        number = record.begin(self._clock())
        try:
            async with asyncio.timeout(within):
                answer = await self._client.ask(self._trial)
        except NoAnswer:
            host, port = self._target.api
            raise ServiceNotRunning(f"The api does not answer at {host}:{port}.", hint="denzel status") from None
        except TimeoutError:
            raise preflight.not_ended(within) from None
        if not record.answer(number, answer):
            raise _refusal(answer)
        self._synchronous = not task_of(answer) or answer.status == HTTPStatus.ACCEPTED
        if not await self._ends.through(record, within):
            if number in record.under_way and await self._ends.status(record.under_way[number]) not in TERMINAL_STATES:
                raise preflight.not_ended(within)
            raise preflight.not_called_back(self._sink.address(self._target.host, number), within)
        if record.failed:
            raise preflight.failed(record.errors[0].first)

    async def _leave(self, record: RequestLog) -> None:
        """Leave nothing of the first request, whose task may be there although no answer has told its id."""
        for number in list(record.unanswered):
            self._progress.doing("Asking which task the first request has become, to cancel it")
            # As long as the answer might still have taken.
            within = max(self._times.rest, record.intended[number] + self._times.first - self._clock())
            with suppress(NoAnswer, TimeoutError):
                async with asyncio.timeout(within):
                    record.answer(number, await self._client.ask(self._again))
        await self._ends.clear(record)

    async def _send(self) -> None:
        """Send by the plan, then wait for what has not come to its end."""
        seconds, rate, clients = self._plan.seconds, self._plan.rate, self._plan.clients
        how = f"requests of {pluralize(clients, 'client')}" if clients else f"{rate:g} requests per second"
        self._progress.doing(f"Sending {how} for {seconds:g} s")
        record = self._record = RequestLog(
            synchronous=self._synchronous,
            has_callback=self._prepared.has_callback,
            ended=lambda number: generator.ended(number),
            first=1,
        )
        generator = Generator(self._client, self._prepared, record, self._plan)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(generator.close)
            try:
                async with self._gauges:
                    self._began = self._clock()
                    try:
                        await generator.run()
                    finally:
                        self._over = self._clock()
                        self._unfinished = record.unfinished
                if record.outstanding:
                    self._progress.doing(f"Waiting for {record.outstanding} requests that have not come to their end")
                await self._ends.through(record, max(self._times.rest, seconds))
            except asyncio.CancelledError:
                self._interrupted = True
            await self._ends.clear(record)

    def _take_callback(self, number: int, when: float, task_id: str, body: bytes) -> None:
        for record in (self._first, self._record):
            if record is not None:
                record.take_callback(number, when, task_id, body)


def _refusal(answer: HttpResponse) -> DenzelError:
    """Why the first request was not accepted."""
    content = read_json(answer.body)
    if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return preflight.refused(answer.status, content)
    return ServiceFailed(
        f"The api answered the first request with {answer.status}: {preflight.description(answer.status, content)}",
        hint="denzel status, then denzel tasks and denzel logs --service api",
    )
