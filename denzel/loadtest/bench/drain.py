"""Drain of a bench: waits for outstanding requests, then cancels the tasks that remain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from http import HTTPStatus

from denzel.loadtest.bench.request_log import RequestLog, parse_json
from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.http.client import HttpClient, NoResponse
from denzel.services import TERMINAL_STATES

#: Concurrent requests about tasks.
_MAX_CONCURRENCY = 16


@dataclass(frozen=True)
class Drain:
    """Follows outstanding requests to their end; `doing` is called with each step that it begins.

    It polls every `poll_interval` seconds. After a cancel it waits for callbacks until none has arrived for
    `idle_timeout` seconds.
    """

    client: HttpClient
    templates: RequestTemplates
    _: KW_ONLY
    doing: Callable[[str], None]
    poll_interval: float
    idle_timeout: float
    clock: Callable[[], float]

    async def wait(self, log: RequestLog, timeout: float) -> bool:
        """Wait until nothing is outstanding; false after `timeout` seconds."""
        began = self.clock()
        while log.outstanding:
            if self.clock() - began > timeout:
                return False
            without_callback = [number for number in log.in_flight if number not in log.awaiting_callback]
            for number in without_callback[:_MAX_CONCURRENCY]:
                if await self.status(log.in_flight[number]) in (*TERMINAL_STATES, None):
                    log.in_flight.pop(number, None)
            await asyncio.sleep(self.poll_interval)
        return True

    async def cancel_remaining(self, log: RequestLog) -> None:
        """Cancel the tasks that have not ended, and wait for callbacks that are still to arrive."""
        attempted: set[int] = set()
        outstanding, changed = log.outstanding, self.clock()
        while True:
            # Also those whose response arrives only now.
            remaining = [(number, task_id) for number, task_id in log.in_flight.items() if number not in attempted]
            if remaining:
                if not attempted:
                    count = "1 task that has" if len(remaining) == 1 else f"{len(remaining)} tasks that have"
                    self.doing(f"Cancelling {count} not ended")
                attempted.update(number for number, _ in remaining)
                await asyncio.gather(*(self._cancel(log, remaining) for _ in range(_MAX_CONCURRENCY)))
                changed = self.clock()
            if log.outstanding != outstanding:
                outstanding, changed = log.outstanding, self.clock()
            if not outstanding or self.clock() - changed >= self.idle_timeout:
                return
            await asyncio.sleep(self.poll_interval)

    async def status(self, task_id: str) -> str | None:
        """The status of a task in GET /status; None when there is no such task, empty when there is no answer."""
        with suppress(NoResponse):
            response = await self.client.send(self.templates.status(task_id))
            content = parse_json(response.body)
            if response.status == HTTPStatus.OK and isinstance(content, dict):
                return str(content.get("status"))
            if response.status == HTTPStatus.NOT_FOUND:
                return None
        return ""

    async def _cancel(self, log: RequestLog, remaining: list[tuple[int, str]]) -> None:
        while remaining:
            # From the back of the queue: the worker takes tasks from the front.
            number, task_id = remaining.pop()
            if number not in log.in_flight:
                continue
            log.cancelled.add(number)
            with suppress(NoResponse):
                response = await self.client.send(self.templates.cancel(task_id))
                if response.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                    # It had ended before.
                    log.cancelled.discard(number)
                elif response.status != HTTPStatus.OK:
                    # It may be cancelled all the same: its callback will show.
                    continue
                if number not in log.awaiting_callback:
                    log.in_flight.pop(number, None)
