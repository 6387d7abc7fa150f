"""Load generator of the benchmarks, in a process of its own: reads a workload as JSON, and prints its measurements.

Usage: echo '{"kind": "answers", ...}' | python load.py, with the fields of `Workload`. Requests use persistent
connections on asyncio's bare transports, so that the generator costs little beside what it measures.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections import Counter
from typing import Any

from protocols import Answer, Connection, Receiver
from workload import CALLBACK, DIGITS, Workload, is_expected, milliseconds


class Load:
    """Generates the load of one workload."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.errors: Counter[str] = Counter()
        self.sent: dict[int, float] = {}
        self.times: list[float] = []
        self.called_back: dict[int, float] = {}
        self.repeated = 0
        self.number = 0
        # So that a late callback of an earlier load, to a port that is in use again, is ignored.
        self._path = f"/{secrets.token_hex(4)}/"
        self._expected_answers: set[bytes] = set()
        self._expected_callbacks: set[bytes] = set()
        self._templates: dict[int, tuple[bytes, bytes]] = {}

    async def run(self) -> dict[str, Any]:
        self.receiver = await Receiver.open(self._on_callback)
        self.slow_receiver = await Receiver.open(self._on_callback, delay=self.workload.slow_seconds)
        measure = {"answers": self._answers, "callbacks": self._callbacks, "paced": self._paced}[self.workload.kind]
        try:
            measured = await measure()
        finally:
            self.receiver.close()
            self.slow_receiver.close()
        return {**measured, "errors": dict(self.errors), "repeated": self.repeated}

    async def _answers(self) -> dict[str, Any]:
        if self.workload.warm_up:
            await self._closed_loop(self.workload.warm_up)
            self.times.clear()
            self.errors.clear()
        began = time.perf_counter()
        await self._closed_loop(self.workload.seconds)
        return {"per_second": len(self.times) / (time.perf_counter() - began), **milliseconds(self.times)}

    async def _callbacks(self) -> dict[str, Any]:
        if self.workload.warm_up:
            await self._closed_loop(self.workload.warm_up)
            await self._drain()
            self.times.clear()
            self.errors.clear()
            self.sent.clear()
            self.called_back.clear()
        began = time.perf_counter()
        await self._closed_loop(self.workload.seconds)
        accepted = len(self.times) / (time.perf_counter() - began)
        await self._drain()
        completed = len(self.called_back) / (max(self.called_back.values(), default=began) - began or 1)
        return {
            "accepted_per_second": accepted,
            "completed_per_second": completed,
            "accepted": len(self.times),
            "completed": len(self.called_back),
        }

    async def _paced(self) -> dict[str, Any]:
        """Send requests at a fixed rate, however late the answers are; times are from a request to its callback."""
        idle: list[Connection] = []
        requests: set[asyncio.Task[None]] = set()
        fast: list[int] = []
        count = int(self.workload.rate * (self.workload.seconds + self.workload.warm_up))
        warm = int(self.workload.rate * self.workload.warm_up)
        began = time.perf_counter()
        for turn in range(count):
            await asyncio.sleep(max(0.0, began + turn / self.workload.rate - time.perf_counter()))
            slow = bool(self.workload.slow_one_in) and turn % self.workload.slow_one_in == 0
            number = self._next()
            if turn >= warm and not slow:
                fast.append(number)
            request = asyncio.create_task(self._once(idle, number, slow=slow))
            requests.add(request)
            request.add_done_callback(requests.discard)
        await asyncio.gather(*requests)
        await self._drain()
        times = [self.called_back[number] - self.sent[number] for number in fast if number in self.called_back]
        return {**milliseconds(times), "completed": len(times), "asked": len(fast)}

    async def _closed_loop(self, seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(deadline) for _ in range(self.workload.clients)))

    async def _client(self, deadline: float) -> None:
        connection: Connection | None = None
        while (began := time.perf_counter()) < deadline and len(self.times) < self.workload.limit:
            try:
                if connection is None or connection.closed:
                    connection = await Connection.open(self.workload.port)
                expected = self._check(await connection.send(self._request(self._next())))
            except OSError as error:
                self._fail(type(error).__name__)
                await asyncio.sleep(0.01)
                connection = None
                continue
            if expected:
                self.times.append(time.perf_counter() - began)
        if connection is not None:
            connection.close()

    async def _once(self, idle: list[Connection], number: int, *, slow: bool) -> None:
        try:
            while idle and idle[-1].closed:
                idle.pop()
            connection = idle.pop() if idle else await Connection.open(self.workload.port)
            self._check(await connection.send(self._request(number, slow=slow)))
        except OSError as error:
            self._fail(type(error).__name__)
            self.sent.pop(number, None)
            return
        if not connection.closed:
            idle.append(connection)

    async def _drain(self) -> None:
        """Wait for the callbacks of accepted requests."""
        deadline = time.perf_counter() + self.workload.drain_timeout
        while len(self.called_back) < len(self.sent) - self.errors.total() and time.perf_counter() < deadline:
            await asyncio.sleep(0.005)

    def _next(self) -> int:
        self.number += 1
        return self.number

    def _request(self, number: int, *, slow: bool = False) -> bytes:
        receiver = self.slow_receiver if slow else self.receiver
        if receiver.port not in self._templates:
            self._templates[receiver.port] = self._render(receiver.port)
        before, after = self._templates[receiver.port]
        if not after:
            return before
        self.sent[number] = time.perf_counter()
        return b"%s%0*d%s" % (before, DIGITS, number, after)

    def _render(self, port: int) -> tuple[bytes, bytes]:
        """The bytes of a request before and after its number."""
        workload = self.workload
        uri = f"http://{workload.callback_host}:{port}{self._path}{'0' * DIGITS}"
        before, _, after = workload.body.partition(CALLBACK)
        body = f"{before}{uri}{after}" if after else before
        lines = [
            f"POST {workload.path} HTTP/1.1",
            f"Host: 127.0.0.1:{workload.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body.encode())}",
            *(f"{name}: {value}" for name, value in workload.headers.items()),
        ]
        head = "\r\n".join(lines) + "\r\n\r\n"
        if not after:
            return (head + body).encode(), b""
        return (head + before + uri[:-DIGITS]).encode(), after.encode()

    def _check(self, answer: Answer) -> bool:
        if answer.status not in self.workload.statuses:
            self._fail(str(answer.status))
        elif answer.body in self._expected_answers or self.workload.answer is None:
            return True
        elif is_expected(self.workload.answer, answer.body):
            if len(self._expected_answers) < 100:
                self._expected_answers.add(answer.body)
            return True
        else:
            self._fail("wrong answer")
        return False

    def _on_callback(self, path: str, body: bytes) -> None:
        if not path.startswith(self._path):
            return
        number = int(path.removeprefix(self._path))
        if body not in self._expected_callbacks and self.workload.callback is not None:
            if not is_expected(self.workload.callback, body):
                self.errors["wrong callback"] += 1
                return
            self._expected_callbacks.add(body)
        if number in self.called_back:
            self.repeated += 1
        elif number in self.sent:
            self.called_back[number] = time.perf_counter()

    def _fail(self, reason: str) -> None:
        self.errors[reason] += 1


def main() -> None:
    fields = json.load(sys.stdin)
    workload = Workload(**{**fields, "statuses": tuple(fields.get("statuses", (200,)))})
    print(json.dumps(asyncio.run(Load(workload).run())))


if __name__ == "__main__":
    main()
