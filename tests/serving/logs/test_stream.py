"""stream.py: which lines the log gets of what is printed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
from support.paths import PROJECT

from app.serving.logs.stream import MAX_LINE, LineStream


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def stream(lines: list[str]) -> LineStream:
    return LineStream(1, lines.append)


def test_a_print_is_one_line(stream: LineStream, lines: list[str]) -> None:
    print("shape", (3, 4), "mean", 0.5, file=stream)
    assert lines == ["shape (3, 4) mean 0.5"]


def test_parts_are_joined_until_the_newline(stream: LineStream, lines: list[str]) -> None:
    print("loading", end=" ... ", file=stream, flush=True)
    stream.write("do")
    stream.writelines(["ne", "\nnext"])
    assert lines == ["loading ... done"]
    stream.end_line()
    assert lines == ["loading ... done", "next"]


def test_each_line_of_a_print_is_a_line_and_empty_ones_are_left_out(stream: LineStream, lines: list[str]) -> None:
    print("one\ntwo\r\n\n   \nthree\n", file=stream)
    print(file=stream)
    assert lines == ["one", "two", "three"]


def test_a_long_line_is_cut_off_and_says_how_long_it_was(stream: LineStream, lines: list[str]) -> None:
    print("x" * MAX_LINE, file=stream)
    print("y" * 1_000_000, file=stream)
    for _ in range(3):
        print("z" * MAX_LINE, end="", file=stream)
    stream.end_line()
    assert lines == [
        "x" * MAX_LINE,
        "y" * MAX_LINE + " ... (1000000 characters)",
        "z" * MAX_LINE + f" ... ({3 * MAX_LINE} characters)",
    ]


def test_each_thread_has_a_line_of_its_own(stream: LineStream, lines: list[str]) -> None:
    both_have_begun = threading.Barrier(2, timeout=10)

    def write(name: str) -> None:
        for part in range(100):
            print(name, end="", file=stream)
            if not part:
                both_have_begun.wait()
        print(file=stream)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lines) == ["a" * 100, "b" * 100]


def test_the_end_of_a_task_ends_the_lines_of_its_threads(stream: LineStream, lines: list[str]) -> None:
    thread = threading.Thread(target=lambda: stream.write("of a thread"))
    thread.start()
    thread.join()
    stream.end_line()
    assert lines == []
    stream.end_line(of_all_threads=True)
    assert lines == ["of a thread"]


def test_a_line_that_is_drawn_over_is_one_line(stream: LineStream, lines: list[str]) -> None:
    for number in range(50):
        print(f"{number}%", end="\r", file=stream)
    print("a print between", file=stream)
    stream.end_line()
    assert lines == ["a print between", "49%"]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("naïve ☃\n".encode(), "naïve ☃"),
        (b"not UTF-8: \xff\n", "not UTF-8: \\xff"),
        (bytearray(b"a bytearray\n"), "a bytearray"),
        (memoryview(b"a view\n"), "a view"),
    ],
)
def test_bytes_are_text(stream: LineStream, lines: list[str], data: Any, line: str) -> None:
    assert stream.buffer.write(data) == len(data)
    assert lines == [line]


def test_a_character_may_come_in_two_writes(stream: LineStream, lines: list[str]) -> None:
    snowman = "☃\n".encode()
    stream.buffer.write(snowman[:1])
    stream.buffer.write(snowman[1:])
    assert lines == ["☃"]


def test_colours_are_left_out_and_control_characters_are_spelled_out(stream: LineStream, lines: list[str]) -> None:
    print("\x1b[1;31mred\x1b[0m \x1b]0;title\x07bell\x07\tnul\0 \u2028", file=stream)
    assert lines == ["red bell\\x07\tnul\\x00 \\u2028"]


def test_it_is_an_output_as_programs_expect_one(stream: LineStream, lines: list[str]) -> None:
    stream.reconfigure(encoding="latin-1", line_buffering=True)
    stream.flush()
    stream.close()
    stream.buffer.close()
    assert (stream.encoding, stream.fileno(), stream.writable(), stream.isatty()) == ("utf-8", 1, True, False)
    assert stream.buffer.fileno() == 1
    assert stream.buffer.writable()
    print("still there", file=stream)
    assert lines == ["still there"]
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(io.UnsupportedOperation):
        stream.read()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_repeat_what_its_parent_had_begun(stream: LineStream, lines: list[str]) -> None:
    stream.write("begun by the parent\r")
    stream.write("and this")
    pid = os.fork()
    if not pid:
        stream.end_line(of_all_threads=True)
        os._exit(len(lines))
    assert os.waitpid(pid, 0)[1] == 0


#: A program whose output is a LineStream, in a locale of ASCII.
IN_ASCII = """
import logging, sys, warnings
from app.serving.logs.lines import TaskFormatter, log_output
handler = logging.StreamHandler(sys.stderr)
handler.setFormatter(TaskFormatter())
log_output((handler,))
warnings.warn("careful")
print("na\\xefve \\u2603", "lone \\udc80")
sys.stderr.write("stderr too \\u2603")
from app.serving.logs.current import logged_as
with logged_as():
    pass
"""


def test_the_log_is_utf8_whatever_the_locale() -> None:
    environ = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", IN_ASCII], cwd=PROJECT, env=environ, capture_output=True, check=True)
    warning, first, second = done.stderr.decode("utf-8").splitlines()
    assert warning.endswith("] <string>:7: UserWarning: careful")
    assert first.endswith("] naïve ☃ lone \\udc80")
    assert second.endswith("] stderr too ☃")
