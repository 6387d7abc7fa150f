"""Faults that `denzel drill` does not inject: what becomes of accepted requests when a part stands still or is cut off.

Usage: python benchmarks/faults.py [OPTIONS] FAULT ...

A project is made and launched, and gets requests with callbacks while the faults are injected, one after another:

    stop:PART:SECONDS    SIGSTOP, and SIGCONT after so long: supervisor, worker, process, sender, api, redis (local)
    kill:PART            SIGKILL; on Docker, of a service's container, which is then started again
    cut:SERVICE:SECONDS  the container of denzel, api, monitor or redis without network (docker)
    full:SECONDS         a full disk: the file system of --work, which must be a small one
    restart              `denzel restart`
    wait:SECONDS         nothing

It exits with 1 when an accepted request has no callback or a wrong one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from denzel_project import DENZEL, FOLDER, PIPELINES
from programs import Failed, free_ports, run

from denzel.loadtest.api import Api
from denzel.loadtest.client import HttpClient, NoResponse
from denzel.loadtest.load import LoadGenerator, LoadProfile
from denzel.loadtest.receiver import Callback, CallbackReceiver
from denzel.loadtest.request_log import RequestLog
from denzel.project import dotenv

#: Different requests, each with a result of its own.
_REQUESTS = 997

#: Seconds between two faults, and without a callback at the end until the rest counts as missing.
_PAUSE, _IDLE = 5.0, 150.0

#: Megabytes that the file system of a full disk may have.
_SMALL = 4096

#: The words in the command of each part.
_COMMANDS = {
    "supervisor": "app.serving.supervisor",
    "worker": "app.serving.worker ",
    "sender": "app.serving.callbacks",
    "api": "gunicorn",
    "redis": "valkey-server",
}


@dataclass
class Project:
    """A launched project with the pipeline that counts."""

    root: Path
    backend: str
    api_port: int
    settings: dict[str, str] = field(default_factory=dict)

    def launch(self) -> None:
        """Make it and launch it; raises Failed."""
        run(DENZEL, "startproject", self.root.name, cwd=self.root.parent)
        shutil.copy(PIPELINES / "counted.py", self.root / "app" / "logic" / "pipeline.py")
        [monitor] = free_ports(1)
        ports = {"API_PORT": str(self.api_port), "MONITOR_PORT": str(monitor)}
        dotenv.change(self.root / ".env", {**ports, "API_HOST": "127.0.0.1", **self.settings})
        self.denzel("launch", "--backend", self.backend, "--api-port", str(self.api_port))

    def denzel(self, *arguments: str) -> str:
        """The output of a denzel command; raises Failed."""
        return run(DENZEL, *arguments, cwd=self.root)

    def remove(self) -> None:
        """Shut it down, and remove it."""
        with suppress(Failed):
            self.denzel("shutdown", "--purge", "--yes")
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def hold(self) -> Path:
        """The file that blocks every task."""
        return self.root / "logs" / "hold"

    @property
    def runs(self) -> int:
        """The times that a task was run."""
        with suppress(FileNotFoundError):
            return (self.root / "logs" / "runs").stat().st_size
        return 0

    def processes(self, part: str) -> list[psutil.Process]:
        """The processes of a part on this machine; raises Failed when there is none."""
        word = _COMMANDS["worker" if part == "process" else part]
        found = [one for one in psutil.process_iter() if self._is_part(one, word)]
        if word == _COMMANDS["worker"]:
            # Those that predict are forked from the worker, and have its command.
            found = [one for one in found if (one.parent() in found) is (part == "process")]
        if not found:
            raise Failed(f"no process of the {part} runs")
        return found

    def _is_part(self, process: psutil.Process, words: str) -> bool:
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            return words in f"{command} " and process.environ().get(FOLDER) == os.path.realpath(self.root)
        return False

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return docker("compose", "--project-directory", str(self.root), "ps", "--all", "--quiet", service)


def docker(*arguments: str) -> str:
    """The output of a docker command; raises Failed."""
    return run("docker", *arguments, cwd=Path.cwd()).strip()


# ---------------------------------------------------------------- faults


def stop(project: Project, part: str, seconds: str) -> None:
    """Let one process of a part, or all of the api, stand still."""
    found = project.processes(part)
    stopped = found[:1] if part == "process" else found
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    time.sleep(float(seconds))
    for process in stopped:
        # The supervisor may have replaced it.
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


def kill(project: Project, part: str) -> None:
    """Kill one process of a part, or a container."""
    if project.backend == "docker":
        docker("kill", project.container(part))
        project.denzel("start")
    else:
        project.processes(part)[0].kill()


def cut(project: Project, service: str, seconds: str) -> None:
    """Take a container from its networks, and bring it back under its names."""
    container = project.container(service)
    [details] = json.loads(docker("inspect", container))
    networks: dict[str, Any] = details["NetworkSettings"]["Networks"]
    for network in networks:
        docker("network", "disconnect", network, container)
    time.sleep(float(seconds))
    for network, known in networks.items():
        aliases = [word for alias in known["Aliases"] or [] for word in ("--alias", alias)]
        docker("network", "connect", *aliases, network, container)


def fill_disk(project: Project, seconds: str) -> None:
    """Fill the file system of the project, and keep it full; what is freed meanwhile is filled, too."""
    if shutil.disk_usage(project.root).total > _SMALL * 2**20:
        raise Failed(f"{project.root.parent} has more than {_SMALL} MB: name a small file system with --work")
    ballast = project.root.parent / "ballast"
    ends = time.monotonic() + float(seconds)
    with ballast.open("ab", buffering=0) as file:
        while time.monotonic() < ends:
            size = 1 << 20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
            time.sleep(0.05)
    ballast.unlink()


def restart(project: Project) -> None:
    """Restart all services."""
    project.denzel("restart")


def wait(project: Project, seconds: str) -> None:
    """Do nothing."""
    time.sleep(float(seconds))


FAULTS: dict[str, Callable[..., None]] = {
    "stop": stop,
    "kill": kill,
    "cut": cut,
    "full": fill_disk,
    "restart": restart,
    "wait": wait,
}


# ---------------------------------------------------------------- the run


class Results(RequestLog):
    """The log of a run, with the results that callbacks had."""

    def __init__(self, seconds: float) -> None:
        self.bodies = [{"number": one, "seconds": seconds, "callback_uri": ""} for one in range(_REQUESTS)]
        super().__init__(self.bodies, synchronous=False)
        self.wrong: list[str] = []
        self.latest = time.monotonic()

    def take(self, callback: Callback, body: bytes) -> None:
        """Record a callback, and check it."""
        self.latest = callback.when
        number = callback.number % _REQUESTS
        request = self.requests[callback.number]
        is_another = request.task_id and request.task_id != callback.task_id
        if json.loads(body) != {"number": number, "square": number**2} or is_another:
            self.wrong.append(f"{callback.task_id}: {body[:200].decode(errors='replace')}")
        self.record_callback(callback, body)

    @property
    def missing(self) -> list[str]:
        """The accepted tasks without a callback."""
        return [one.task_id for one in self.accepted if not one.callbacks]


async def run_faults(project: Project, faults: list[str], *, rate: float, queued: int, each: float) -> Results:
    """Send requests, inject the faults, and wait for every callback."""
    results = Results(each)
    receiver = CallbackReceiver("0.0.0.0", 0, results.take)
    server = "127.0.0.1", project.api_port
    async with receiver, HttpClient(*server) as client:
        address = receiver.address("host.docker.internal" if project.backend == "docker" else "127.0.0.1", 0)
        api = Api(client, results.bodies, server=server, key="", address=address)
        async with LoadGenerator(api, results, prefer="respond-async") as load:
            if queued:
                await _queue(project, api, results, queued)
                print(f"{len(results.accepted)} are queued", flush=True)
            loading = asyncio.create_task(load.run(LoadProfile(seconds=86400, rate=rate))) if rate else None
            for fault in faults:
                await asyncio.sleep(_PAUSE)
                await _inject(project, fault, results, recovers=bool(rate))
            if loading is not None:
                await asyncio.sleep(_PAUSE)
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
            idle_limit = _IDLE + each
            while results.missing and time.monotonic() < results.latest + idle_limit:
                await asyncio.sleep(0.5)
            # Long enough for one that comes twice.
            await asyncio.sleep(20)
            await _explain(api, results.missing)
    return results


async def _queue(project: Project, api: Api, results: Results, count: int) -> None:
    """Send so many requests, which wait until all are accepted."""
    project.hold.touch()

    async def send_some() -> None:
        while len(results.requests) < count:
            request = results.begin(time.monotonic())
            results.record_response(request, await api.predict(request.number, prefer="respond-async"))

    await asyncio.gather(*(send_some() for _ in range(32)))
    project.hold.unlink()


async def _inject(project: Project, fault: str, results: Results, *, recovers: bool) -> None:
    """Inject one fault, and print when a request that was sent after it was called back."""
    name, *arguments = fault.split(":")
    before, errors = len(results.accepted), Counter(results.refused)
    await asyncio.to_thread(FAULTS[name], project, *arguments)
    over = time.monotonic()
    line = f"{fault:<22}"
    while recovers and not any(one.scheduled > over and one.callbacks for one in results.requests[-3000:]):
        if time.monotonic() > over + _IDLE:
            line += " NOT"
            break
        await asyncio.sleep(0.1)
    counts = f"{len(results.accepted) - before} accepted, refused {dict(Counter(results.refused) - errors)}"
    print(f"{line} recovered in {time.monotonic() - over:.1f} s, {counts}", flush=True)


async def _explain(api: Api, missing: list[str]) -> None:
    for task_id in missing[:10]:
        with suppress(NoResponse):
            print(f"missing {task_id}: {await api.task(task_id)}")


def report(project: Project, results: Results) -> bool:
    """Print the counts; true when nothing accepted is missing, and nothing wrong."""
    callbacks = [one.callbacks for one in results.requests]
    print(f"sent {len(results.requests)}, accepted {len(results.accepted)}, refused {results.refused}")
    print(f"missing {len(results.missing)}, wrong {len(results.wrong)}")
    print(f"called back twice {sum(len(one) > 1 for one in callbacks)}")
    print(f"run {project.runs} times, for {sum(bool(one) for one in callbacks)} that were called back")
    for line in results.wrong[:10]:
        print(f"wrong {line}")
    return not results.missing and not results.wrong


def main() -> int:
    """Run the faults that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="+", metavar="FAULT")
    parser.add_argument("--backend", choices=["local", "docker"], default="local")
    parser.add_argument("--rate", type=float, default=50, help="requests per second; 0 for those of --queued alone")
    parser.add_argument("--queued", type=int, default=0, help="requests that are accepted before the first one runs")
    parser.add_argument("--each", type=float, default=0.005, help="seconds that a task takes")
    parser.add_argument("--work", type=Path, default=Path.cwd(), help="the folder of the project")
    parser.add_argument("--api-port", type=int, default=0, help="a free one, if none is named")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of .env")
    parser.add_argument("--keep", action="store_true", help="leave the project as it is at the end")
    options = parser.parse_args()
    unknown = [fault for fault in options.faults if fault.partition(":")[0] not in FAULTS]
    if unknown:
        parser.error(f"unknown faults: {', '.join(unknown)}")
    settings = {"STOP_TIMEOUT": "10", "QUEUE_LIMIT": "100000", **dict(one.split("=", 1) for one in options.set)}
    root = options.work.resolve() / f"faults-{options.backend}-{os.getpid()}"
    project = Project(root, options.backend, options.api_port or free_ports(1)[0], settings)
    try:
        project.launch()
        coroutine = partial(run_faults, project, options.faults, rate=options.rate, queued=options.queued)
        return 0 if report(project, asyncio.run(coroutine(each=options.each))) else 1
    except Failed as error:
        print(error)
        return 1
    finally:
        if not options.keep:
            project.remove()


if __name__ == "__main__":
    sys.exit(main())
