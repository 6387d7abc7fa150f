"""Interface of a system under measurement."""

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

from programs import Failed
from workload import CALLBACK, is_expected

IRIS = Path(__file__).parents[1] / "examples" / "iris"

#: The tutorial's request, without and with a callback, and its answer.
FLOWERS = json.loads((IRIS / "request.json").read_text())["data"]
REQUEST = {"callback_uri": None, "data": FLOWERS}
REQUEST_WITH_CALLBACK = {"callback_uri": CALLBACK, "data": FLOWERS}
ANSWER = {"a123": "Iris-setosa", "b456": "Iris-virginica"}

#: Seconds that a system may take until its first answer.
START_TIMEOUT = 60


@dataclass(frozen=True, kw_only=True)
class Request:
    """One kind of request, with its expected answer and callback."""

    path: str
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Any = None
    callback: Any = None
    statuses: tuple[int, ...] = (200,)
    callback_host: str = "127.0.0.1"


class System(ABC):
    """A server of the tutorial's model on this machine."""

    name: str
    title: str
    versions: str
    port: int
    #: For a synchronous answer; and for a callback, where the system has them.
    sync: Request
    accept: Request | None
    #: True when its processes can share one model.
    shares = False

    @abstractmethod
    def prepare(self) -> None:
        """Install it; raises Failed."""

    @abstractmethod
    def start(self, *, large: bool = False, shared: bool = False) -> None:
        """Start it without waiting; `large` is a model of 512 MB in two processes, `shared` one for both."""

    @abstractmethod
    def check_started(self) -> None:
        """Raise Failed when the start has failed."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it."""

    @abstractmethod
    def remove(self) -> None:
        """Remove all that it has installed or written."""

    @abstractmethod
    def memory(self) -> dict[str, float]:
        """Megabytes of PSS, by service."""

    @contextmanager
    def running(self, *, large: bool = False, shared: bool = False) -> Iterator[float]:
        """Run the system meanwhile; yields the seconds from its start to its first correct answer."""
        began = time.perf_counter()
        try:
            self.start(large=large, shared=shared)
            while not self._answers():
                self.check_started()
                if time.perf_counter() > began + START_TIMEOUT:
                    raise Failed(f"no correct answer within {START_TIMEOUT} seconds")
                time.sleep(0.01)
            yield time.perf_counter() - began
        finally:
            self.stop()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/json", **self.sync.headers}
            connection.request("POST", self.sync.path, json.dumps(self.sync.body), headers)
            answer = connection.getresponse()
            return answer.status == 200 and is_expected(self.sync.answer, answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
