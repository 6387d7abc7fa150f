"""Starting programs, with small real ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.waiting import until

from denzel import runner
from denzel.errors import CommandFailed, ToolMissing


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


FAILS = python("import sys; print('out'); print('why', file=sys.stderr); sys.exit(3)")
STDIN = python("import sys; print(repr(sys.stdin.read()))")


def test_run_returns_the_output() -> None:
    assert runner.run(python("import sys; print('a'); print('b', file=sys.stderr)")) == "a\n"


def test_run_fails_with_the_command_its_code_and_its_stderr() -> None:
    with pytest.raises(CommandFailed) as failure:
        runner.run(FAILS)
    assert failure.value.argv == FAILS
    assert failure.value.code == 3
    assert failure.value.detail == "why"
    assert "failed with exit code 3" in str(failure.value)


def test_run_in_a_folder_with_variables(tmp_path: Path) -> None:
    code = "import os; print(os.getcwd(), os.environ['API_PORT'], os.environ['PATH'])"
    assert runner.run(python(code), cwd=tmp_path, variables={"API_PORT": "1"}) == f"{tmp_path} 1 {os.environ['PATH']}\n"


def test_run_replaces_what_is_not_text() -> None:
    assert runner.run(python(r"import sys; sys.stdout.buffer.write(b'\xff')")) == "\N{REPLACEMENT CHARACTER}"


def test_no_program_reads_the_terminal() -> None:
    assert runner.run(STDIN) == "''\n"
    assert list(runner.lines(STDIN)) == ["''"]


def test_run_passes_stdin() -> None:
    assert runner.run(STDIN, stdin="a\n") == "'a\\n'\n"


def test_nothing_is_expanded_by_a_shell() -> None:
    assert runner.run([*python("import sys; print(sys.argv[1:])"), "$HOME; ls *"]) == "['$HOME; ls *']\n"


@pytest.mark.parametrize("start", [runner.run, lambda argv: list(runner.lines(argv)), runner.attach])
def test_a_missing_program_is_named_with_what_to_install(start: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert callable(start)
    with pytest.raises(ToolMissing, match="The program docker is not installed") as missing:
        start(["docker", "version"])
    assert "https://docs.docker.com/engine/install/" in missing.value.hint
    with pytest.raises(ToolMissing) as missing:
        start(["abacus"])
    assert missing.value.hint == "Install abacus."


def test_a_missing_folder_is_not_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        runner.run(python("pass"), cwd=tmp_path / "nowhere")


def test_lines_come_from_both_streams_without_their_ends() -> None:
    code = "import sys; print('a', flush=True); print('b', file=sys.stderr, flush=True); print('c')"
    assert list(runner.lines(python(code))) == ["a", "b", "c"]


def test_lines_come_as_they_are_printed() -> None:
    lines = runner.lines(python("import time; print('first', flush=True); time.sleep(60)"))
    assert next(lines) == "first"
    lines.close()


def test_lines_fail_at_their_end() -> None:
    lines = runner.lines(FAILS)
    assert {next(lines), next(lines)} == {"out", "why"}
    with pytest.raises(CommandFailed) as failure:
        next(lines)
    assert failure.value.code == 3
    assert "why" in failure.value.detail


def test_lines_keep_the_end_of_a_long_output() -> None:
    code = "import sys\nfor number in range(200): print(number)\nsys.exit(1)"
    with pytest.raises(CommandFailed) as failure:
        list(runner.lines(python(code)))
    assert failure.value.detail.split() == [str(number) for number in range(150, 200)]


def test_a_program_is_terminated_when_its_output_is_no_longer_read() -> None:
    lines = runner.lines(python("import os, time; print(os.getpid(), flush=True); time.sleep(60)"))
    pid = int(next(lines))
    assert _runs(pid)
    lines.close()
    until(lambda: not _runs(pid), within=5)


def test_attach_returns_the_exit_code(tmp_path: Path) -> None:
    code = "import os, pathlib, sys; pathlib.Path('word').write_text(os.environ['WORD']); sys.exit(7)"
    assert runner.attach(python(code), cwd=tmp_path, variables={"WORD": "hello"}) == 7
    assert (tmp_path / "word").read_text() == "hello"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
