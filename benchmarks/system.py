"""What a benchmark asks of a system that it measures."""

from __future__ import annotations

import http.client
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from order import CALLBACK, right
from programs import Failed

IRIS = Path(__file__).parents[1] / "examples" / "iris"

#: The tutorial's request, with no callback and with one; and its answer.
FLOWERS = json.loads((IRIS / "request.json").read_text())["data"]
REQUEST = {"callback_uri": None, "data": FLOWERS}
REQUEST_WITH_CALLBACK = {"callback_uri": CALLBACK, "data": FLOWERS}
ANSWER = {"a123": "Iris-setosa", "b456": "Iris-virginica"}

#: Seconds that a system may take until it answers.
STARTS_WITHIN = 60


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One kind of request: where to, what, and what comes back."""

    path: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Any = None
    callback: Any = None
    statuses: tuple[int, ...] = (200,)
    callback_host: str = "127.0.0.1"


class System(ABC):
    """Something that serves the tutorial's model on this machine."""

    name: str
    title: str
    versions: str
    port: int
    #: For an answer at once; and for a callback, where there are any.
    sync: Ask
    accept: Ask | None
    #: Whether it can hold one model for all processes.
    shares = False

    @abstractmethod
    def prepare(self) -> None:
        """Install it; raises Failed."""

    @abstractmethod
    def begin(self, *, large: bool = False, shared: bool = False) -> None:
        """Start it, and do not wait; `large` is a model of 512 MB in two processes."""

    @abstractmethod
    def complain(self) -> None:
        """Raise Failed when the start has failed."""

    @abstractmethod
    def end(self) -> None:
        """Stop it."""

    @abstractmethod
    def remove(self) -> None:
        """Leave nothing behind."""

    @abstractmethod
    def memory(self) -> dict[str, float]:
        """Megabytes of PSS, by service."""

    @contextmanager
    def running(self, *, large: bool = False, shared: bool = False) -> Iterator[float]:
        """The system while it runs; gives the seconds from its start to its first right answer."""
        began = time.perf_counter()
        try:
            self.begin(large=large, shared=shared)
            while not self._answers():
                self.complain()
                if time.perf_counter() > began + STARTS_WITHIN:
                    raise Failed(f"no right answer within {STARTS_WITHIN} seconds")
                time.sleep(0.01)
            yield time.perf_counter() - began
        finally:
            self.end()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/json", **self.sync.headers}
            connection.request("POST", self.sync.path, json.dumps(self.sync.body), headers)
            answer = connection.getresponse()
            return answer.status == 200 and right(self.sync.answer, answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
