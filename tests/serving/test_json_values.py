"""json_values.py: values that a model may return, and the errors for all others."""

from __future__ import annotations

import enum
import io
import json
import math
import random
from collections import OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from app.serving.json_values import NotJson, json_text, json_values


class Colour(enum.IntEnum):
    RED = 1


class Figure:
    """A class such as a plotting library has."""


class Awaitable:
    """An object such as an asynchronous client returns."""

    def __await__(self) -> Any:
        raise NotImplementedError


class Lazy:
    """An array as xarray has."""

    def compute(self) -> Lazy:
        return self

    def to_dict(self) -> dict[str, int]:
        return {"x": 1}


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


@pytest.mark.parametrize("key", [(1, 2), Point(1, 2), frozenset((1,)), Figure(), 1j])
def test_a_key_that_is_not_json_is_named(key: Any) -> None:
    with pytest.raises(NotJson, match=r'^result\["a"\] has the key .*: not JSON serialisable \(str\(\) would help\)$'):
        json_values({"a": {key: 1}})


@pytest.mark.parametrize("keys", [(1, "1"), (None, "null"), (True, np.bool_(True)), (1.5, "1.5"), (math.nan, None)])
def test_keys_that_json_writes_alike_are_refused(keys: tuple[Any, Any]) -> None:
    """One of the two values would be lost."""
    first, second = keys
    value = {first: 1, second: 2} if first != second else {Colour.RED: 1, "1": 2}
    with pytest.raises(NotJson, match=r'^result\["a"\] has two keys that are \'.*\' in JSON: not JSON serialisable$'):
        json_values({"a": value})


@pytest.mark.parametrize(
    ("value", "kind", "advice"),
    [
        (Figure(), "Figure", "str(), or a dict of what it holds"),
        (Figure, "type", "str(), or a dict of what it holds"),
        (len, "builtin_function_or_method", "str(), or a dict of what it holds"),
        (1j, "complex", "str(), or .real and .imag"),
        (np.complex128(1j), "complex", "str(), or .real and .imag"),
        ((number for number in [1]), "generator", "list()"),
        (map(str, [1]), "map", "list()"),
        (io.BytesIO(), "BytesIO", "the base64 text of .getvalue()"),
        (io.StringIO(), "StringIO", ".getvalue()"),
        (Awaitable(), "Awaitable", "asyncio.run()"),
        (Fraction(1, 3), "Fraction", "float(), or str()"),
        (Lazy(), "Lazy", ".to_dict()"),
        (Decimal("1e400000"), "Decimal", "str()"),
        (np.timedelta64(5), "timedelta64", "int()"),
    ],
)
def test_anything_else_is_named_by_path_and_type_with_what_would_help(value: Any, kind: str, advice: str) -> None:
    with pytest.raises(NotJson) as refused:
        json_values({"a123": [1, 2, value]})
    assert str(refused.value) == f'result["a123"][2] is a {kind}: not JSON serialisable ({advice} would help)'


def test_the_path_reads_as_in_the_contract() -> None:
    with pytest.raises(NotJson) as refused:
        json_values({"a123": [0, 1, Figure()]})
    assert str(refused.value).startswith('result["a123"][2] is a Figure: not JSON serialisable')


def test_a_long_path_is_cut_in_the_middle() -> None:
    with pytest.raises(NotJson) as refused:
        json_values({"a" * 10_000: {"last": Figure()}})
    text = str(refused.value)
    assert len(text) < 500
    assert text.startswith('result["aaa')
    assert 'aaa"]["last"] is a Figure' in text


def test_the_path_leads_into_arrays_of_objects() -> None:
    with pytest.raises(NotJson, match=r'^result\["rows"\]\[1\] is a Figure'):
        json_values({"rows": np.array([1, Figure()], dtype=object)})


def test_the_path_begins_with_the_name_that_is_given() -> None:
    with pytest.raises(NotJson, match=r'^verify_input\(\.\.\.\)\["x"\] is a Figure'):
        json_values({"x": Figure()}, "verify_input(...)")


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
    with pytest.raises(NotJson, match=r'^result\["n"\]: the key is an int that is too long'):
        json_values({"n": {10**5000: 1}})


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
    assert json.loads(json_text(json_values(value)).encode()) == expected


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
    assert str(refused.value).startswith(f"result{path} is a Figure: not JSON serialisable")


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


def test_a_text_leaves_in_its_own_letters() -> None:
    assert json_text({"naïve": "☃"}) == '{"naïve": "☃"}'


def test_a_text_that_utf8_cannot_encode_leaves_as_escapes() -> None:
    assert json_text({"a": "ü\ud800"}) == '{"a": "\\u00fc\\ud800"}'
