"""errors.py: any exception as a bounded failure, and as a text for a client."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as some

from app.serving.errors import LIMIT, BadInput, describe, explain, explanation, failure, failure_members
from app.serving.json_values import NotJson, json_text
from app.serving.logs.tracebacks import MAX_LINE, MAX_LINES, traceback_text


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class OfTheUser(Exception):
    def __init__(self, first: str, *, second: Any) -> None:
        super().__init__(first, second)
        self.handle = open  # cannot be pickled


class NotAnImage(BadInput):
    pass


class Row(pydantic.BaseModel):
    age: int


def raised(function: Any, *arguments: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments)
    return caught.value


def chained() -> None:
    try:
        raise ValueError("first")
    except ValueError as error:
        raise RuntimeError("second") from error


@pytest.mark.parametrize(
    ("error", "arguments", "kind", "text", "shown"),
    [
        (ValueError("no"), ["no"], "ValueError", "no", "no"),
        (ValueError(), ["ValueError"], "ValueError", "", "ValueError"),
        (KeyError("rows"), ["rows"], "KeyError", "'rows'", "KeyError: 'rows'"),
        (KeyError(3), [3], "KeyError", "3", "KeyError: 3"),
        (IndexError(7), [7], "IndexError", "7", "IndexError: 7"),
        (OfTheUser("a", second=2), ["a", 2], "OfTheUser", "('a', 2)", "('a', 2)"),
        (ValueError({"x": [float("nan")]}), [{"x": [None]}], "ValueError", "{'x': [nan]}", "{'x': [nan]}"),
        (ValueError(np.int64(3)), [3], "ValueError", "3", "ValueError: 3"),
        (Unprintable("x"), ["Unprintable"], "Unprintable", "", "Unprintable"),
        (NotJson("result is a Figure"), ["result is a Figure"], "NotJson", "result is a Figure", "result is a Figure"),
        (NotAnImage("no"), ["no"], "BadInput", "no", "no"),
        (SystemExit(1), ["SystemExit: 1"], "SystemExit", "SystemExit: 1", "SystemExit: 1"),
        (raised(chained), ["second"], "RuntimeError", "second", "second"),
        (ValueError("ü\ud800"), ["ü\ud800"], "ValueError", "ü\\ud800", "ü\\ud800"),
        (
            ExceptionGroup("several", [ValueError("a")]),
            ["several (1 sub-exception)"],
            "ExceptionGroup",
            "several (1 sub-exception)",
            "several (1 sub-exception)",
        ),
    ],
)
def test_a_failure_has_arguments_and_type_and_message(
    error: BaseException, arguments: list[Any], kind: str, text: str, shown: str
) -> None:
    stored = failure(error)
    assert stored == {"args": arguments, "error": {"type": kind, "message": text}}
    assert explanation(json_text(stored)) == shown
    assert json.loads(f"{{{failure_members(json_text(stored))}}}") == {
        "result": {"args": arguments},
        "error": {"type": kind, "message": text},
    }


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (raised(open, "./app/assets/vocabulary.txt"), "No such file or directory: './app/assets/vocabulary.txt'"),
        (raised(np.zeros, 10**14), "Unable to allocate 728. TiB"),
        (raised(lambda: Row(age="x")), "age\n  Input should be a valid integer"),  # type: ignore[arg-type]
        (raised(b"\xff".decode), "'utf-8' codec can't decode byte 0xff in position 0"),
        (raised(compile, "a b", "pipeline.py", "exec"), "invalid syntax (pipeline.py, line 1)"),
        (raised(__import__, "vocabularies"), "No module named 'vocabularies'"),
    ],
)
def test_an_exception_with_a_text_of_its_own_is_told_by_it(error: Exception, part: str) -> None:
    stored = failure(error)
    assert part in stored["error"]["message"]
    assert stored["args"] == [stored["error"]["message"]]
    assert part in explain(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 3_000_000),
        ValueError("a", ["x"] * 3_000),
        ValueError(b"\xff" * 3_000_000),
        UnicodeDecodeError("utf-8", b"\xff" * 3_000_000, 0, 1, "bad"),
        ExceptionGroup("x" * 3_000, [ValueError("y" * 3_000)] * 300),
        type("X" * 3_000, (ValueError,), {})("no"),
        KeyError("x" * 3_000_000),
    ],
    ids=lambda error: type(error).__name__[:20],
)
def test_nothing_of_a_large_exception_is_unbounded(error: Exception) -> None:
    stored = failure(error)
    assert len(json_text(stored["args"])) <= 2 * LIMIT
    assert len(stored["error"]["message"]) <= LIMIT
    assert len(stored["error"]["type"]) <= LIMIT
    assert len(explain(error)) <= 2 * LIMIT + 2
    assert len(describe(error)) <= 2 * LIMIT + 2
    lines = traceback_text(error).splitlines()
    assert len(lines) <= MAX_LINES + 1
    assert max(map(len, lines)) <= MAX_LINE + 4


def test_the_traceback_of_a_deep_recursion_is_cut_in_the_middle() -> None:
    def deeper(number: int) -> None:
        if number:
            (deeper if number % 2 else deepest)(number - 1)
        raise ValueError("at the end")

    def deepest(number: int) -> None:
        deeper(number)

    text = traceback_text(raised(deeper, 300))
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: at the end")
    assert " lines ..." in text


@pytest.mark.parametrize(
    ("stored", "members", "shown"),
    [
        ('{"args": [2, "No such file"]}', {"result": {"args": [2, "No such file"]}}, "2, No such file"),
        ('{"args": []}', {"result": {"args": []}}, ""),
    ],
)
def test_a_failure_of_an_earlier_release_is_answered(stored: str, members: dict[str, Any], shown: str) -> None:
    assert json.loads(f"{{{failure_members(stored)}}}") == members
    assert explanation(stored) == shown


_arguments = some.recursive(
    some.one_of(some.none(), some.integers(), some.floats(), some.text(), some.binary(), some.builds(object)),
    lambda inner: some.one_of(some.lists(inner), some.dictionaries(some.text(), inner)),
)


@given(
    some.sampled_from([ValueError, KeyError, OSError, BadInput, Unprintable, AssertionError, StopIteration]),
    some.lists(_arguments, max_size=4),
)
def test_any_exception_is_a_failure_that_utf8_json_can_hold(kind: type[Exception], arguments: list[Any]) -> None:
    error = kind(*arguments)
    text = json_text(failure(error))
    assert len(text.encode()) < 20 * LIMIT
    assert set(json.loads(text)) == {"args", "error"}
    assert json.loads(f"{{{failure_members(text)}}}")["error"]["type"]
    assert explanation(text) == explain(error)
