"""supervisord, which runs the local services: its configuration, its start, and its XML-RPC interface."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from denzel import runner
from denzel.errors import CommandFailed, NotPermitted

#: Bytes of the longest path of the socket's folder: a socket's own may have about 100 (sun_path in <sys/un.h> has 104
#: or 108), and supervisord binds it first with its process id as a suffix.
_MAX_FOLDER = 85


@dataclass(frozen=True, kw_only=True)
class Program:
    """One service as supervisord runs it, in the project folder; a higher priority starts later and stops earlier."""

    name: str
    priority: int
    command: str
    environment: Mapping[str, str]
    log: str
    stop_seconds: int


class Supervisor:
    """The supervisord of one project. Its socket is in a folder with a short path below the temporary folder; a link in
    the project leads to it, as the temporary folder of another command may be a different one.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._link = root / ".denzel" / "socket"
        self._folder = _socket_folder(self._link, f"denzel-{_digest(root)}")
        self._socket = self._folder / "s"

    @property
    def temp_folder(self) -> Path:
        """The folder for temporary files of the programs, inside the socket's and removed with it."""
        return self._folder / "tmp"

    def configuration(self, programs: Sequence[Program], *, log: str) -> str:
        """The text of supervisord.conf."""
        socket, pid = _escaped(str(self._socket)), _escaped(str(self._folder / "pid"))
        factory = "supervisor.rpcinterface:make_main_rpcinterface"
        parts = [
            f"[unix_http_server]\nfile = {socket}\nchmod = 0600",
            (
                f"[supervisord]\nlogfile = {log}\nlogfile_maxbytes = 1MB\nlogfile_backups = 1\npidfile = {pid}\n"
                # By default it would remove log files of other programs from the temporary folder.
                f"childlogdir = {_escaped(str(self._folder))}\nnocleanup = true"
            ),
            f"[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = {factory}",
            *(_section(program) for program in programs),
        ]
        return "\n\n".join(parts) + "\n"

    def start(self, configuration: Path, environment: Mapping[str, str]) -> None:
        """Start supervisord in the background, with every program, to outlive this process and its terminal.

        Raises NotPermitted, and CommandFailed when it does not answer within 10 s.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        status = self._folder.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
            raise NotPermitted(
                f"{self._folder} belongs to another user.", hint="Remove it, or point TMPDIR to a folder of your own."
            )
        self.temp_folder.mkdir(exist_ok=True)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self._folder)
        runner.run(
            [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(configuration)],
            cwd=self._root,
            variables=environment,
        )
        deadline = time.monotonic() + 10
        while self.states() is None:
            if time.monotonic() > deadline:
                raise CommandFailed(["supervisord"], 1, f"no answer; its log: {self._root / '.denzel' / 'logs'}")
            time.sleep(0.05)

    def states(self) -> dict[str, dict[str, Any]] | None:
        """supervisord's record of each program (`statename`, `start`, `now`, `pid`); None when it does not run."""
        answer = self._call("getAllProcessInfo")
        return None if answer is None else {process["name"]: process for process in answer or []}

    def is_ending(self) -> bool:
        """True while supervisord shuts down or restarts: it stops its programs, and starts none."""
        # Meanwhile it answers every call with a fault.
        return self._call("getState") is False

    def start_missing(self) -> None:
        """Start the programs that are not running."""
        for name, process in (self.states() or {}).items():
            if process["statename"] in ("STOPPED", "EXITED", "FATAL"):
                self._call("startProcess", name, False)

    def stop(self) -> None:
        """Stop every program gracefully, one after another, and supervisord; return when all have ended."""
        # Repeated, as a restarting supervisord ignores it.
        while self._call("shutdown") is not None:
            time.sleep(0.05)
        self._socket.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder of the socket."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._link.unlink(missing_ok=True)

    def _call(self, method: str, *arguments: Any) -> Any:
        """The result of one remote call; None when supervisord does not answer, False for a fault."""
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault:
            return False
        except (OSError, xmlrpc.client.ProtocolError):
            return None
        finally:
            transport.close()


def _section(program: Program) -> str:
    environment = ",".join(f'{name}="{_escaped(value)}"' for name, value in program.environment.items())
    return "\n".join(
        [
            f"[program:{program.name}]",
            f"command = {_escaped(program.command)}",
            f"environment = {environment}",
            f"priority = {program.priority}",
            "autorestart = true",
            # A program that ends sooner has failed to start; after so many failures in a row it is given up.
            "startsecs = 5",
            "startretries = 5",
            f"stopwaitsecs = {program.stop_seconds}",
            "killasgroup = true",
            "redirect_stderr = true",
            f"stdout_logfile = {_escaped(program.log)}",
            "stdout_logfile_maxbytes = 10MB",
            "stdout_logfile_backups = 3",
        ]
    )


def _socket_folder(link: Path, name: str) -> Path:
    """The socket's folder: the target of the link, unless that was copied with its project; or a new one."""
    if link.is_symlink() and (target := link.readlink()).name == name:
        return target
    folder = Path(tempfile.gettempdir()) / name
    return folder if len(os.fsencode(folder)) <= _MAX_FOLDER else Path("/tmp") / name


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _digest(root: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:12]
