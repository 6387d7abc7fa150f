"""What the load is told to do, and how it judges what comes back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

#: What stands in a body for the address of the callback; every address has this many digits.
CALLBACK = "CALLBACK_URI"
DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class Order:
    """`work` is answers, callbacks or paced; times are in seconds, `rate` is requests a second."""

    work: str
    port: int
    path: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)
    #: What an answer must be, and a callback: JSON, or a text that it must hold; None: anything.
    answer: Any = None
    callback: Any = None
    statuses: tuple[int, ...] = (200,)
    clients: int = 1
    seconds: float = 4
    warm_up: float = 1
    rate: float = 50
    #: Requests in all, and seconds to wait for the last callback.
    limit: int = 1_000_000
    patience: float = 60
    #: How the system reaches this machine.
    callback_host: str = "127.0.0.1"
    #: Of so many requests one is called back at a receiver that takes so long to answer; 0: none.
    slow_one_in: int = 0
    slow_seconds: float = 3


def milliseconds(times: list[float]) -> dict[str, float | None]:
    """Percentiles of seconds, in milliseconds."""
    if not times:
        return {"p50": None, "p90": None, "p99": None, "max": None}
    ranked = sorted(times)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: 1000 * ranked[min(len(ranked) - 1, int(share * len(ranked)))] for name, share in shares.items()}


def right(expected: Any, body: bytes) -> bool:
    """Whether a body is the JSON that was expected, or holds the text."""
    if isinstance(expected, str):
        return expected in body.decode(errors="replace")
    return expected is None or _load(body) == expected


def _load(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
