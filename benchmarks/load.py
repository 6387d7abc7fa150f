"""The load of the benchmarks, a process of its own: reads an order as JSON from its input, prints what it measured.

Usage: echo '{"work": "answers", ...}' | python load.py. An order is the fields of `Order`. Requests go over connections
that are kept, on asyncio's bare transports, so that the generator costs little beside what it measures.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections import Counter
from typing import Any

from endings import Answer, Connection, Receiver
from order import CALLBACK, DIGITS, Order, milliseconds, right


class Load:
    """Carries out one order."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.errors: Counter[str] = Counter()
        self.sent: dict[int, float] = {}
        self.times: list[float] = []
        self.arrived: dict[int, float] = {}
        self.repeated = 0
        self.number = 0
        # A callback of an earlier load, which came late to a port that is given again, is none of ours.
        self._path = f"/{secrets.token_hex(4)}/"
        self._right: set[bytes] = set()
        self._right_callbacks: set[bytes] = set()
        self._prepared: dict[int, tuple[bytes, bytes]] = {}

    async def run(self) -> dict[str, Any]:
        self.receiver = await Receiver.open(self._arrive)
        self.slow_receiver = await Receiver.open(self._arrive, delay=self.order.slow_seconds)
        work = {"answers": self._answers, "callbacks": self._callbacks, "paced": self._paced}[self.order.work]
        try:
            measured = await work()
        finally:
            self.receiver.close()
            self.slow_receiver.close()
        return {**measured, "errors": dict(self.errors), "repeated": self.repeated}

    async def _answers(self) -> dict[str, Any]:
        if self.order.warm_up:
            await self._closed_loop(self.order.warm_up)
            self.times.clear()
            self.errors.clear()
        began = time.perf_counter()
        await self._closed_loop(self.order.seconds)
        return {"per_second": len(self.times) / (time.perf_counter() - began), **milliseconds(self.times)}

    async def _callbacks(self) -> dict[str, Any]:
        if self.order.warm_up:
            await self._closed_loop(self.order.warm_up)
            await self._until_called_back()
            self.times.clear()
            self.errors.clear()
            self.sent.clear()
            self.arrived.clear()
        began = time.perf_counter()
        await self._closed_loop(self.order.seconds)
        accepted = len(self.times) / (time.perf_counter() - began)
        await self._until_called_back()
        completed = len(self.arrived) / (max(self.arrived.values(), default=began) - began or 1)
        return {
            "accepted_per_second": accepted,
            "completed_per_second": completed,
            "accepted": len(self.times),
            "completed": len(self.arrived),
        }

    async def _paced(self) -> dict[str, Any]:
        """Requests at a fixed rate, whatever the answers do; the times are from the request to its callback."""
        idle: list[Connection] = []
        requests: set[asyncio.Task[None]] = set()
        fast: list[int] = []
        count = int(self.order.rate * (self.order.seconds + self.order.warm_up))
        warm = int(self.order.rate * self.order.warm_up)
        began = time.perf_counter()
        for turn in range(count):
            await asyncio.sleep(max(0.0, began + turn / self.order.rate - time.perf_counter()))
            slow = bool(self.order.slow_one_in) and turn % self.order.slow_one_in == 0
            number = self._next()
            if turn >= warm and not slow:
                fast.append(number)
            request = asyncio.create_task(self._once(idle, number, slow=slow))
            requests.add(request)
            request.add_done_callback(requests.discard)
        await asyncio.gather(*requests)
        await self._until_called_back()
        times = [self.arrived[number] - self.sent[number] for number in fast if number in self.arrived]
        return {**milliseconds(times), "completed": len(times), "asked": len(fast)}

    async def _closed_loop(self, seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(deadline) for _ in range(self.order.clients)))

    async def _client(self, deadline: float) -> None:
        connection: Connection | None = None
        while (began := time.perf_counter()) < deadline and len(self.times) < self.order.limit:
            try:
                if connection is None or connection.closed:
                    connection = await Connection.open(self.order.port)
                right = self._judge(await connection.ask(self._request(self._next())))
            except OSError as error:
                self._fail(type(error).__name__)
                await asyncio.sleep(0.01)
                connection = None
                continue
            if right:
                self.times.append(time.perf_counter() - began)
        if connection is not None:
            connection.close()

    async def _once(self, idle: list[Connection], number: int, *, slow: bool) -> None:
        try:
            while idle and idle[-1].closed:
                idle.pop()
            connection = idle.pop() if idle else await Connection.open(self.order.port)
            self._judge(await connection.ask(self._request(number, slow=slow)))
        except OSError as error:
            self._fail(type(error).__name__)
            self.sent.pop(number, None)
            return
        if not connection.closed:
            idle.append(connection)

    async def _until_called_back(self) -> None:
        """Wait for the callbacks of what was accepted; those of refused requests never come."""
        deadline = time.perf_counter() + self.order.patience
        while len(self.arrived) < len(self.sent) - self.errors.total() and time.perf_counter() < deadline:
            await asyncio.sleep(0.005)

    def _next(self) -> int:
        self.number += 1
        return self.number

    def _request(self, number: int, *, slow: bool = False) -> bytes:
        receiver = self.slow_receiver if slow else self.receiver
        if receiver.port not in self._prepared:
            self._prepared[receiver.port] = self._prepare(receiver.port)
        before, after = self._prepared[receiver.port]
        if not after:
            return before
        self.sent[number] = time.perf_counter()
        return b"%s%0*d%s" % (before, DIGITS, number, after)

    def _prepare(self, port: int) -> tuple[bytes, bytes]:
        """The bytes of a request before and after its number."""
        order = self.order
        uri = f"http://{order.callback_host}:{port}{self._path}{'0' * DIGITS}"
        before, _, after = order.body.partition(CALLBACK)
        body = f"{before}{uri}{after}" if after else before
        lines = [
            f"POST {order.path} HTTP/1.1",
            f"Host: 127.0.0.1:{order.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body.encode())}",
            *(f"{name}: {value}" for name, value in order.headers.items()),
        ]
        head = "\r\n".join(lines) + "\r\n\r\n"
        if not after:
            return (head + body).encode(), b""
        return (head + before + uri[:-DIGITS]).encode(), after.encode()

    def _judge(self, answer: Answer) -> bool:
        if answer.status not in self.order.statuses:
            self._fail(str(answer.status))
        elif answer.body in self._right or self.order.answer is None:
            return True
        elif right(self.order.answer, answer.body):
            if len(self._right) < 100:
                self._right.add(answer.body)
            return True
        else:
            self._fail("wrong answer")
        return False

    def _arrive(self, path: str, body: bytes) -> None:
        if not path.startswith(self._path):
            return
        number = int(path.removeprefix(self._path))
        if body not in self._right_callbacks and self.order.callback is not None:
            if not right(self.order.callback, body):
                self.errors["wrong callback"] += 1
                return
            self._right_callbacks.add(body)
        if number in self.arrived:
            self.repeated += 1
        elif number in self.sent:
            self.arrived[number] = time.perf_counter()

    def _fail(self, reason: str) -> None:
        self.errors[reason] += 1


def main() -> None:
    fields = json.load(sys.stdin)
    order = Order(**{**fields, "statuses": tuple(fields.get("statuses", (200,)))})
    print(json.dumps(asyncio.run(Load(order).run())))


if __name__ == "__main__":
    main()
