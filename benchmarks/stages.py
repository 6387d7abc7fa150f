"""Time of each step of a request through the serving code, on one Redis.

Usage: python benchmarks/stages.py. It prints microseconds for each task, alone and among 16 that share a round trip, as
a table for docs/performance.md. Redis writes its append-only file, as in a project.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from programs import redis_server

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "denzel" / "templates" / "project"))

ROUNDS = 300
TOGETHER = 16


def main() -> None:
    from app.serving.store.connection import connect

    with redis_server("--appendfsync", "no") as url:
        print("| step | alone, µs | one of 16, µs |\n|---|---|---|")
        for name, step in steps(connect(url)).items():
            alone, together = (statistics.median(step(count) for _ in range(ROUNDS)) for count in (1, TOGETHER))
            print(f"| {name} | {alone * 1e6:.0f} | {together / TOGETHER * 1e6:.0f} |")


def steps(redis: Any) -> dict[str, Callable[[int], float]]:
    """The steps by name: functions that return the seconds that a step takes for so many tasks."""
    from app.serving.json_values import json_values
    from app.serving.store.claims import ClaimLimits, Claims, new_owner
    from app.serving.store.loop.connection import LoopConnection
    from app.serving.store.loop.tasks import LoopScript
    from app.serving.store.messages import task_message
    from app.serving.store.tasks import Completion, NewTask, accept_arguments

    loop = asyncio.Runner()
    accepting = LoopConnection(redis)
    script = LoopScript(accepting, "tasks/accept")
    claims = Claims(redis, ClaimLimits(deliveries=3, ttl=60), new_owner())
    model, rows = fitted()
    body = (ROOT / "examples" / "iris" / "request.json").read_bytes()
    request = json.loads(body)
    result = {"a123": "Iris-setosa", "b456": "Iris-virginica"}
    number = 0

    def new_tasks(count: int) -> list[NewTask]:
        nonlocal number
        number += count
        ids = [f"{number - place:08d}-0000-4000-8000-000000000000" for place in range(count)]
        return [NewTask(task_id=one, message=task_message(one, request), callback_uri=None) for one in ids]

    async def accept(tasks: list[NewTask]) -> None:
        for task in tasks[:-1]:
            script.send(accept_arguments(task, queue_limit=1_000_000), lambda *_: None)
        last = asyncio.get_running_loop().create_future()
        script.send(accept_arguments(tasks[-1], queue_limit=1_000_000), lambda *_: last.set_result(None))
        await last

    def end(tasks: list[NewTask]) -> None:
        text = json.dumps(result)
        claims.take(limit=1, completions=[Completion(one.task_id, "SUCCESS", text) for one in tasks])

    def through(timed: str, count: int) -> float:
        """The seconds of one step of tasks that go through all of them."""
        tasks = new_tasks(count)
        took = {
            "accept": seconds(lambda: loop.run(accept(tasks))),
            "take": seconds(lambda: claims.take(limit=count)),
            "end": seconds(lambda: end(tasks)),
        }
        return took[timed]

    message = task_message("00000000-0000-4000-8000-000000000000", request)
    arguments = json.loads(message)["body"]
    return {
        "read the request's JSON": lambda count: seconds(lambda: [json.loads(body) for _ in range(count)]),
        "check and write the message": lambda count: seconds(
            lambda: [task_message("an-id", json_values(request)) for _ in range(count)]
        ),
        "accept: record and queue, one script": lambda count: through("accept", count),
        "take: claim and count, one script": lambda count: through("take", count),
        "read the message": lambda count: seconds(
            lambda: [json.loads(base64.b64decode(json.loads(message)["body"] or arguments)) for _ in range(count)]
        ),
        "`model.predict`, two rows for each task": lambda count: seconds(lambda: model.predict(rows(2 * count))),
        "end and take: results, claims, announcements, one script": lambda count: through("end", count),
        "a round trip to Redis that does nothing": lambda count: seconds(lambda: redis.ping()),
    }


def seconds(step: Callable[[], object]) -> float:
    """The time that a step takes."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def fitted() -> tuple[Any, Callable[[int], Any]]:
    """The tutorial's model, and rows of its data."""
    from sklearn.datasets import load_iris
    from sklearn.svm import SVC

    iris = load_iris()
    return SVC().fit(iris.data, iris.target), lambda count: iris.data[:count]


if __name__ == "__main__":
    main()
