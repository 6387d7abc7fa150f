"""supervisord's configuration, as supervisord itself reads it, and calls to one that does not run."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from denzel.backends.local.supervisor import Program, Supervisor
from denzel.errors import NotPermitted

# Folders as users have them, and as they should not.
FOLDERS = [
    "plain",
    "with spaces in it",
    "100% %(here)s %s",
    'it\'s "quoted"',
    "Schwertlilien-ü-鳶尾花",
    "semi;colon #hash",
    "x" * 160,
]


def program(**changes: object) -> Program:
    """A program with these changes."""
    facts: dict[str, object] = {
        "name": "api",
        "priority": 4,
        "command": "bash entrypoints/api.sh",
        "environment": {"PROJECT_NAME": "iris"},
        "log": ".denzel/logs/api.log",
        "stop_seconds": 30,
    }
    return Program(**{**facts, **changes})  # type: ignore[arg-type]


def read(root: Path, *programs: Program, monkeypatch: pytest.MonkeyPatch) -> ServerOptions:
    """The options that supervisord reads from the configuration in the project folder."""
    root.mkdir(exist_ok=True)
    (root / "supervisord.conf").write_text(
        Supervisor(root).configuration(programs, log="supervisord.log"), encoding="utf-8"
    )
    (root / ".denzel" / "logs").mkdir(parents=True, exist_ok=True)
    socket_folder(Supervisor(root)).mkdir()
    monkeypatch.chdir(root)
    options = ServerOptions()
    options.realize(["--configuration", str(root / "supervisord.conf")])
    return options


def socket_folder(supervisor: Supervisor) -> Path:
    """The path of its socket."""
    text = supervisor.configuration([], log="supervisord.log")
    (file,) = re.findall("^file = (.*)$", text, re.MULTILINE)
    return Path(file.replace("%%", "%")).parent


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder of this test's own, of which the path is short, as that of `tmp_path` is not."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield Path(folder)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.filterwarnings("ignore:Supervisord is running as root")
def test_supervisord_reads_its_configuration_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    programs = [program(), program(name="redis", priority=1, log=".denzel/logs/redis.log", stop_seconds=10)]
    options = read(tmp_path / name, *programs, monkeypatch=monkeypatch)
    groups = {group.name: group.process_configs[0] for group in options.process_group_configs}
    assert set(groups) == {"api", "redis"}
    assert groups["api"].command == "bash entrypoints/api.sh"
    assert groups["api"].environment == {"PROJECT_NAME": "iris"}
    # Relative to the project folder, in which supervisord is started.
    assert groups["api"].stdout_logfile == ".denzel/logs/api.log"
    assert (groups["redis"].priority, groups["redis"].stopwaitsecs, groups["api"].stopwaitsecs) == (1, 10, 30)
    assert all(group.redirect_stderr and group.killasgroup for group in groups.values())
    assert Path(options.logfile) == tmp_path / name / "supervisord.log"


@pytest.mark.parametrize("value", ["", "100%", "%(here)s", "a b", "ü", "a,b", "a=b", "it's", "a;b", "a#b", "$HOME"])
def test_a_value_comes_out_as_it_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    environment = {"BEFORE": "1", "VALUE": value, "AFTER": "2"}
    options = read(tmp_path / "iris", program(environment=environment), monkeypatch=monkeypatch)
    assert options.process_group_configs[0].process_configs[0].environment == environment


@pytest.mark.parametrize("name", FOLDERS)
def test_the_socket_has_a_short_path_of_its_own(tmp_path: Path, temporary: Path, name: str) -> None:
    folder = socket_folder(Supervisor(tmp_path / name))
    assert folder.parent == temporary
    assert len(os.fsencode(folder.name)) < 25
    assert folder != socket_folder(Supervisor(tmp_path / f"{name}2"))
    assert "chmod = 0600" in Supervisor(tmp_path / name).configuration([], log="supervisord.log")


def test_the_socket_is_the_folders_own_however_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "iris").mkdir()
    (tmp_path / "link").symlink_to("iris")
    assert socket_folder(Supervisor(tmp_path / "iris")) == socket_folder(Supervisor(tmp_path / "link"))


def test_the_socket_is_short_where_the_temporary_folder_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("t" * 120)))
    assert len(f"{socket_folder(Supervisor(tmp_path))}/s.1234567") < 104


def test_a_supervisord_that_was_not_started_does_not_run(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    assert supervisor.states() is None
    supervisor.start_missing()
    supervisor.stop()
    supervisor.remove()


def test_a_socket_without_a_listener_is_removed(tmp_path: Path, temporary: Path) -> None:
    supervisor = Supervisor(tmp_path)
    socket = socket_folder(supervisor) / "s"
    socket.parent.mkdir()
    socket.touch()
    assert supervisor.states() is None
    supervisor.stop()
    assert not socket.exists()
    supervisor.remove()
    assert list(temporary.iterdir()) == []


def test_a_folder_that_others_can_enter_is_not_used(tmp_path: Path, temporary: Path) -> None:
    """A user who creates it first in a shared temporary folder could answer in supervisord's place."""
    supervisor = Supervisor(tmp_path)
    folder = socket_folder(supervisor)
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / ".denzel").mkdir()
    (tmp_path / "supervisord.conf").write_text(supervisor.configuration([], log="supervisord.log"))
    try:
        with pytest.raises(NotPermitted, match=str(folder)) as refusal:
            supervisor.start(tmp_path / "supervisord.conf", {})
    finally:
        supervisor.stop()
    assert refusal.value.hint
    assert supervisor.states() is None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777
