"""Event loop of the serving code in a thread, so that background work goes on between two requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from falcon.testing import ASGIConductor, Result

Returned = TypeVar("Returned")


class Loop:
    """One event loop in a thread, for all tests."""

    def __init__(self, new: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self._loop = new()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Returned]) -> Returned:
        """Return the coroutine's result, or raise its error; callable from any thread."""
        return self.start(coroutine).result(60)

    def start(self, coroutine: Coroutine[Any, Any, Returned]) -> Future[Returned]:
        """Run the coroutine meanwhile."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop."""

        async def call() -> None:
            function()

        self.run(call())

    def cancel_all(self) -> None:
        """End what a test has left running there."""

        async def cancel() -> None:
            while left := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=0.1)

        self.run(cancel())


LOOP = Loop()


class Client:
    """Requests to an ASGI application on that loop."""

    def __init__(self, app: Any) -> None:
        self._conductor = ASGIConductor(app)

    def simulate_request(self, method: str, path: str, **request: Any) -> Result:
        return LOOP.run(self._conductor.simulate_request(method, path, **request))

    def simulate_get(self, path: str, **request: Any) -> Result:
        return self.simulate_request("GET", path, **request)

    def simulate_head(self, path: str, **request: Any) -> Result:
        return self.simulate_request("HEAD", path, **request)

    def simulate_post(self, path: str, **request: Any) -> Result:
        return self.simulate_request("POST", path, **request)

    def simulate_delete(self, path: str, **request: Any) -> Result:
        return self.simulate_request("DELETE", path, **request)

    def simulate_options(self, path: str, **request: Any) -> Result:
        return self.simulate_request("OPTIONS", path, **request)
