"""json_values.py: values that a model may return, and the errors for all others."""

from __future__ import annotations

import enum
import json
import math
import random
from collections import OrderedDict, namedtuple
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.serving.json_values import NotJson, json_values


class Colour(enum.IntEnum):
    RED = 1


class Figure:
    """A class such as a plotting library has."""


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -7, 2**70, 1.5, "", "Iris-setosa", "naïve ☃", [], {}, [1, [2]], {"a": {"b": [None]}}],
)
def test_json_values_are_returned_unchanged(value: Any) -> None:
    assert json_values(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.uint8(255), 255),
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("Iris-setosa"), "Iris-setosa"),
        (np.array([1, 2]), [1, 2]),
        (np.array([[1.5, 2.5]]), [[1.5, 2.5]]),
        (np.array(7), 7),
        (np.array([]), []),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([True, False]), [True, False]),
        (np.array([1, None, "x"], dtype=object), [1, None, "x"]),
        (np.array([{"a": np.int8(1)}], dtype=object), [{"a": 1}]),
        (np.ma.masked_array([1, 2], mask=[False, True]), [1, None]),
        ((1, 2), [1, 2]),
        (Point(1, 2), [1, 2]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Colour.RED, 1),
    ],
)
def test_numpy_and_the_like_become_plain_values(value: Any, expected: Any) -> None:
    converted = json_values(value)
    assert converted == expected
    assert type(converted) is type(expected)
    assert json.loads(json.dumps(converted)) == expected


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.float32("inf"), np.float16("-inf"), np.array(np.nan)]
)
def test_numbers_that_are_not_finite_become_null(value: Any) -> None:
    assert json_values(value) is None
    assert json_values([value, {"a": value}]) == [None, {"a": None}]


def test_not_a_number_inside_an_array_becomes_null() -> None:
    assert json_values({"row": np.array([1.0, np.nan, np.inf])}) == {"row": [1.0, None, None]}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a", "a"),
        (1, "1"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        (np.int64(3), "3"),
        (np.float32(0.5), "0.5"),
        (np.str_("a"), "a"),
        (np.bool_(True), "true"),
        (Colour.RED, "1"),
    ],
)
def test_keys_are_written_as_json_writes_them(key: Any, expected: str) -> None:
    converted = json_values({key: "value"})
    assert converted == {expected: "value"}
    assert [type(key) for key in converted] == [str]


@pytest.mark.parametrize("key", [(1, 2), b"a", math.nan, math.inf, np.float64("nan"), date(2020, 1, 1)])
def test_a_key_that_is_not_json_is_named(key: Any) -> None:
    with pytest.raises(NotJson, match=r'^result\["a"\] has the key .*: not JSON serialisable$'):
        json_values({"a": {key: 1}})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Figure(), "Figure"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        (1j, "complex"),
        (Decimal("1.5"), "Decimal"),
        (datetime(2020, 1, 1), "datetime"),
        (Path("x"), "Path"),
        (Figure, "type"),
        (len, "builtin_function_or_method"),
        ((number for number in [1]), "generator"),
        (range(3), "range"),
        (np.complex128(1j), "complex"),
        (np.bytes_(b"x"), "bytes"),
    ],
)
def test_anything_else_is_named_by_path_and_type(value: Any, kind: str) -> None:
    with pytest.raises(NotJson) as refused:
        json_values({"a123": [1, 2, value]})
    message = str(refused.value)
    assert message.startswith('result["a123"][2] is a ')
    assert kind in message
    assert message.endswith(": not JSON serialisable")


def test_the_path_reads_as_in_the_contract() -> None:
    with pytest.raises(NotJson) as refused:
        json_values({"a123": [0, 1, Figure()]})
    assert str(refused.value) == 'result["a123"][2] is a Figure: not JSON serialisable'


def test_the_path_leads_into_arrays_of_objects() -> None:
    with pytest.raises(NotJson, match=r'^result\["rows"\]\[1\] is a Figure'):
        json_values({"rows": np.array([1, Figure()], dtype=object)})


def test_the_path_begins_with_the_name_that_is_given() -> None:
    with pytest.raises(NotJson, match=r'^verify_input\(\.\.\.\)\["x"\] is a set'):
        json_values({"x": {1}}, "verify_input(...)")


@pytest.mark.parametrize("unit", ["D", "s", "us", "ns"])
def test_a_numpy_date_is_refused_whatever_its_unit(unit: str) -> None:
    """In nanoseconds, the unit of pandas, NumPy would convert it to a mere number."""
    for value in (np.datetime64("2020-01-01", unit), np.array(["2020-01-01"], dtype=f"datetime64[{unit}]")):
        with pytest.raises(NotJson, match=r'^result\["when"\]'):
            json_values({"when": value})


def test_a_numpy_duration_is_refused() -> None:
    with pytest.raises(NotJson, match=r'^result\["lasts"\]'):
        json_values({"lasts": np.timedelta64(5, "ns")})


def test_a_number_without_a_python_type_is_refused() -> None:
    """NumPy has no conversion of its long double to a Python value."""
    with pytest.raises(NotJson, match=r"^result is a (longdouble|float128|float96): not JSON serialisable$"):
        json_values(np.longdouble(1.5))


def test_a_value_that_contains_itself_is_refused() -> None:
    looped: list[Any] = []
    looped.append(looped)
    with pytest.raises(NotJson, match="nested too deeply, or contains itself"):
        json_values({"a": looped})


def test_an_object_array_that_contains_itself_is_refused() -> None:
    looped = np.array([None], dtype=object)
    looped[0] = looped
    with pytest.raises(NotJson, match="nested too deeply, or contains itself"):
        json_values({"a": looped})


def test_deep_nesting_is_refused() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotJson, match="nested too deeply"):
        json_values(deep)
    while isinstance(deep, list):  # taken apart level by level, for the sake of the interpreter's own stack
        deep = deep.pop()


def test_moderate_nesting_is_kept() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = {"a": [deep]}
    assert json_values(deep) == deep


def test_a_number_with_too_many_digits_is_refused() -> None:
    with pytest.raises(NotJson, match=r'^result\["n"\]'):
        json.dumps(json_values({"n": 10**5000}))


def test_the_argument_is_copied_not_changed() -> None:
    inner = {"a": np.int64(1)}
    value = {"x": [inner]}
    converted = json_values(value)
    converted["x"][0]["a"] = "changed"
    assert value == {"x": [{"a": np.int64(1)}]}
    assert inner["a"] == 1


@pytest.mark.parametrize("seed", range(50))
def test_random_nested_values_survive_a_round_trip_through_json(seed: int) -> None:
    value, expected = nested(random.Random(seed), depth=5)
    assert json.loads(json.dumps(json_values(value), allow_nan=False)) == expected


@pytest.mark.parametrize("seed", range(50))
def test_one_bad_value_at_a_random_place_is_found_by_its_path(seed: int) -> None:
    chance = random.Random(seed)
    value: Any = Figure()
    path = ""
    for _ in range(chance.randint(1, 8)):
        good = [nested(chance, depth=2)[0] for _ in range(chance.randint(0, 3))]
        if chance.random() < 0.5:
            path = f"[{len(good)}]{path}"
            value = [*good, value]
        else:
            path = f'["bad"]{path}'
            value = {**{str(index): one for index, one in enumerate(good)}, "bad": value}
    with pytest.raises(NotJson) as refused:
        json_values(value)
    assert str(refused.value) == f"result{path} is a Figure: not JSON serialisable"


def nested(chance: random.Random, depth: int) -> tuple[Any, Any]:
    """A random value, and what it must be after a round trip through JSON."""
    kind = chance.choice(
        ["plain", "numpy", "gone"] if depth == 0 else ["plain", "numpy", "gone", "list", "dict", "array"]
    )
    if kind == "plain":
        plain = chance.choice([None, True, 3, -2.5, "", "ü\u2028\ud800\x00", 10**30])
        return plain, plain
    if kind == "numpy":
        number = chance.randint(-100, 100)
        return chance.choice(
            [(np.int16(number), number), (np.float64(number / 4), number / 4), (np.str_(number), str(number))]
        )
    if kind == "gone":
        return chance.choice([math.nan, np.float32("inf"), -math.inf]), None
    if kind == "array":
        rows = [[chance.choice([1.5, math.nan]) for _ in range(3)] for _ in range(chance.randint(0, 3))]
        return np.array(rows), [[None if math.isnan(cell) else cell for cell in row] for row in rows]
    pairs = [nested(chance, depth - 1) for _ in range(chance.randint(0, 4))]
    if kind == "list":
        return [value for value, _ in pairs], [expected for _, expected in pairs]
    return (
        {np.int32(index): value for index, (value, _) in enumerate(pairs)},
        {str(index): expected for index, (_, expected) in enumerate(pairs)},
    )
