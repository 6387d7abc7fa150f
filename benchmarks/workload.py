"""Workload of one measurement, the check of its answers, and percentiles of its times."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: Placeholder of the callback URI in a body, and the digits at its end.
CALLBACK = "CALLBACK_URI"
DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests to send: `kind` is answers, callbacks or paced; times are in seconds, `rate` in requests a second."""

    kind: str
    port: int
    path: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    #: The expected answer and callback: JSON, or a text within it; None for any.
    answer: Any = None
    callback: Any = None
    statuses: tuple[int, ...] = (200,)
    clients: int = 1
    seconds: float = 4
    warm_up: float = 1
    rate: float = 50
    #: Requests in total, and seconds to wait for the last callback.
    limit: int = 1_000_000
    drain_timeout: float = 60
    #: The host by which the system reaches this machine.
    callback_host: str = "127.0.0.1"
    #: One request in so many is called back at a slow receiver, which takes `slow_seconds` to answer; 0 for none.
    slow_one_in: int = 0
    slow_seconds: float = 3


def milliseconds(times: list[float]) -> dict[str, float | None]:
    """Percentiles, in milliseconds, of times in seconds."""
    if not times:
        return {"p50": None, "p90": None, "p99": None, "max": None}
    ranked = sorted(times)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: 1000 * ranked[min(len(ranked) - 1, int(share * len(ranked)))] for name, share in shares.items()}


def is_expected(expected: Any, body: bytes) -> bool:
    """True when a body is the expected JSON, or contains the expected text."""
    if isinstance(expected, str):
        return expected in body.decode(errors="replace")
    return expected is None or _load(body) == expected


def _load(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
