"""Callbacks per second, from ended tasks through the sender to a fast receiver on this machine.

Usage: python benchmarks/callbacks.py [CALLBACKS], by default 5000. It starts a Redis server, a receiver and a sender,
each in a process of its own, and measures the time from the start of the sender until the outbox is empty, and that of
one callback from the end of its task until the receiver has it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from programs import redis_server

PROJECT = Path(__file__).parents[1] / "denzel" / "templates" / "project"
sys.path.insert(0, str(PROJECT))

#: A receiver that prints the time of each callback.
RECEIVER = """
import socketserver, sys, threading, time
class Reply(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()) not in (b"\\r\\n", b""):
                if header.lower().startswith(b"content-length:"):
                    length = int(header[15:])
            self.rfile.read(length)
            self.wfile.write(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")
            sys.stdout.write(f"{time.time()}\\n")
            sys.stdout.flush()
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024
server = Server(("127.0.0.1", 0), Reply)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def main(count: int) -> None:
    from app.serving.store import keys
    from app.serving.store.connection import connect
    from app.serving.store.outbox import Outbox
    from app.serving.store.tasks import TaskStore

    with (
        redis_server() as url,
        program([sys.executable, "-c", RECEIVER], stdout=subprocess.PIPE) as receiver,
        ExitStack() as stack,
    ):
        assert receiver.stdout is not None
        uri = f"http://127.0.0.1:{int(receiver.stdout.readline())}/stash"
        redis = connect(url)
        tasks = TaskStore(redis)
        outbox = Outbox(redis, result_ttl=3600, callback_ttl=3600)

        def end(name: str) -> None:
            tasks.enqueue(name, "message", callback_uri=uri, queue_limit=10**9)
            tasks.complete(name, "SUCCESS", {"a123": "Iris-setosa"}, ttl=3600)
            redis.delete(keys.QUEUE)

        for number in range(count):
            end(f"task-{number}")
        began = time.time()
        environment = {**os.environ, "REDIS_URL": url, "CALLBACK_LOOPBACK": "open"}
        command = [sys.executable, "-m", "app.serving.callbacks"]
        sender = stack.enter_context(program(command, cwd=PROJECT, env=environment, stderr=subprocess.DEVNULL))
        arrived = [float(receiver.stdout.readline()) for _ in range(count)]
        spent = Path(f"/proc/{sender.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        cpu = sum(map(int, spent)) / os.sysconf("SC_CLK_TCK")
        while outbox.undelivered():
            time.sleep(0.01)
        total = time.time() - began
        first, last = arrived[0], arrived[-1]
        print(f"{count} waiting callbacks: {count / (last - first):.0f} a second once the sender is up")
        print(f"  {first - began:.2f} s until the first, {total:.2f} s until all were recorded as delivered")
        print(f"  {1e6 * cpu / count:.0f} µs of the sender's CPU for each, its start included")

        delays = []
        for number in range(100):
            ended = time.time()
            end(f"single-{number}")
            delays.append(float(receiver.stdout.readline()) - ended)
            time.sleep(0.02)
        print(f"one callback at a time: {1000 * statistics.median(delays):.1f} ms from accept to receiver (median)")


@contextmanager
def program(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program meanwhile."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
