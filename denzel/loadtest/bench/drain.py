"""How the requests of a bench come to their end: waited for, asked after, and cancelled when the time is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from denzel.loadtest.bench.request_log import RequestLog, read_json
from denzel.loadtest.bench.requests import RequestTemplates
from denzel.loadtest.http.client import Client, NoAnswer
from denzel.services import TERMINAL_STATES

#: Requests that look after tasks, at the same time, at most.
_ASKED_AT_ONCE = 16


class Drain:
    """Looks after what is under way, every `look` seconds; `doing` is told what it begins.

    After a cancel, callbacks are waited for until none has come for `quiet` seconds.
    """

    def __init__(
        self,
        client: Client,
        prepared: RequestTemplates,
        *,
        doing: Callable[[str], None],
        look: float,
        quiet: float,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._prepared = prepared
        self._doing = doing
        self._look = look
        self._quiet = quiet
        self._clock = clock

    async def through(self, record: RequestLog, within: float) -> bool:
        """Wait until nothing is outstanding; whether it came to that in time."""
        began = self._clock()
        while record.outstanding:
            if self._clock() - began > within:
                return False
            # Nobody is called back for these.
            silent = [number for number in record.under_way if number not in record.uncalled]
            for number in silent[:_ASKED_AT_ONCE]:
                if await self.status(record.under_way[number]) in (*TERMINAL_STATES, None):
                    record.under_way.pop(number, None)
            await asyncio.sleep(self._look)
        return True

    async def clear(self, record: RequestLog) -> None:
        """Cancel what has not ended, and wait for the callbacks that are still on their way."""
        asked: set[int] = set()
        left, moved = record.outstanding, self._clock()
        while True:
            # Also those that were sent before, and are answered only now.
            waiting = [(number, task_id) for number, task_id in record.under_way.items() if number not in asked]
            if waiting:
                if not asked:
                    what = "1 task that has" if len(waiting) == 1 else f"{len(waiting)} tasks that have"
                    self._doing(f"Cancelling {what} not ended")
                asked.update(number for number, _ in waiting)
                await asyncio.gather(*(self._cancel(record, waiting) for _ in range(_ASKED_AT_ONCE)))
                moved = self._clock()
            if record.outstanding != left:
                left, moved = record.outstanding, self._clock()
            if not left or self._clock() - moved >= self._quiet:
                return
            await asyncio.sleep(self._look)

    async def status(self, task_id: str) -> str | None:
        """What GET /status says of a task; None when it knows none, and nothing when it says nothing."""
        with suppress(NoAnswer):
            answer = await self._client.ask(self._prepared.status(task_id))
            content = read_json(answer.body)
            if answer.status == HTTPStatus.OK and isinstance(content, dict):
                return str(content.get("status"))
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
        return ""

    async def _cancel(self, record: RequestLog, waiting: list[tuple[int, str]]) -> None:
        while waiting:
            # From the end of the queue on: the worker takes its tasks at the other one.
            number, task_id = waiting.pop()
            if number not in record.under_way:
                continue
            record.cancelled.add(number)
            with suppress(NoAnswer):
                answer = await self._client.ask(self._prepared.cancel(task_id))
                if answer.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                    # It had ended before.
                    record.cancelled.discard(number)
                elif answer.status != HTTPStatus.OK:
                    # It may be cancelled all the same: its callback will tell.
                    continue
                if number not in record.uncalled:
                    record.under_way.pop(number, None)
