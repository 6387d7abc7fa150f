"""What the queue costs: one client that waits for each answer, and many tasks at once. On a launched project.

Usage: python benchmarks/tasks.py http://localhost:8000 REQUEST.json, where REQUEST.json is a request of the project.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

ONE_BY_ONE = 500
AT_ONCE = 2000
CLIENTS = 8


def main() -> None:
    url, request = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    request.pop("callback_uri", None)
    with requests.Session() as session:
        for name, prefer in (("accept", "respond-async"), ("answer", "wait=30")):
            times = sorted(timed(session, url, request, prefer) for _ in range(ONE_BY_ONE))
            print(
                f"{name}: p50 {times[len(times) // 2] * 1000:.1f} ms, p99 {times[len(times) * 99 // 100] * 1000:.1f} ms"
            )
    started = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        tasks = list(pool.map(lambda _: accepted(url, request), range(AT_ONCE)))
    taken = time.monotonic() - started
    for task in tasks[-50:]:
        requests.get(f"{url}/status/{task}", headers={"Prefer": "wait=120"}, timeout=130).raise_for_status()
    ended = time.monotonic() - started
    print(f"{AT_ONCE} at once: accepted {AT_ONCE / taken:.0f} per s, completed {AT_ONCE / ended:.0f} per s")


def timed(session: requests.Session, url: str, request: object, prefer: str) -> float:
    started = time.monotonic()
    session.post(f"{url}/predict", json=request, headers={"Prefer": prefer}, timeout=60).raise_for_status()
    return time.monotonic() - started


def accepted(url: str, request: object) -> str:
    answer = requests.post(f"{url}/predict", json=request, headers={"Prefer": "respond-async"}, timeout=60)
    task_id: str = answer.json()["data"]["task_id"]
    return task_id


if __name__ == "__main__":
    main()
