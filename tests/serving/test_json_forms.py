"""json_forms.py: what data libraries give, with the real libraries, as values and as keys."""

from __future__ import annotations

import base64
import dataclasses
import enum
import io
import json
import uuid
from collections import ChainMap, UserDict, UserList, UserString, deque
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PureWindowsPath
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from app.serving.json_values import NotJson, json_text, json_values


class Species(enum.Enum):
    SETOSA = "setosa"
    OTHER = date(2025, 1, 1)


class Named(str, enum.Enum):  # noqa: UP042 (as older code has it)
    RED = "red"


@dataclasses.dataclass
class Box:
    label: str
    corner: np.ndarray[Any, Any]
    since: date = dataclasses.field(default=date(2025, 1, 1))


@attrs.define
class Circle:
    radius: Any
    colour: Named = Named.RED


class Row(pydantic.BaseModel):
    age: int
    seen: datetime
    scores: Any = None
    secret: str = pydantic.Field(default="x", exclude=True)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def older(self) -> int:
        return self.age + 1


class Labels(pydantic.RootModel[list[str]]):
    pass


class Pair(NamedTuple):
    a: Any
    b: Any


MOMENT = datetime(2025, 1, 2, 3, 4, 5, 600)
ID = uuid.UUID("7785759d-5fa3-4e20-b9fe-d51263b4b4ef")

#: Values that have one form as a value and as a key.
SCALARS: list[tuple[Any, Any]] = [
    (date(2025, 1, 2), "2025-01-02"),
    (MOMENT, "2025-01-02T03:04:05.000600"),
    (MOMENT.replace(tzinfo=UTC), "2025-01-02T03:04:05.000600+00:00"),
    (time(3, 4), "03:04:00"),
    (timedelta(0), "PT0S"),
    (timedelta(hours=1, minutes=30), "PT1H30M"),
    (timedelta(days=2, microseconds=500_000), "P2DT0.5S"),
    (timedelta(days=3), "P3D"),
    (-timedelta(minutes=1, seconds=1), "-PT1M1S"),
    (pd.Timestamp("2025-01-01"), "2025-01-01T00:00:00"),
    (pd.Timestamp("2025-01-01", tz="Europe/Berlin"), "2025-01-01T00:00:00+01:00"),
    (pd.Timestamp("2025-01-01 00:00:00.000000001"), "2025-01-01T00:00:00.000000001"),
    (pd.Timedelta("1 day 2 ns"), "P1DT0.000000002S"),
    (pd.Period("2025-01", "M"), "2025-01"),
    (pd.Interval(0, 1), "(0, 1]"),
    (np.datetime64("2025-01-02"), "2025-01-02"),
    (np.datetime64("2025-01-02T03:04:05", "ns"), "2025-01-02T03:04:05"),
    (np.datetime64("2025-01-02T03:04:05.120", "ms"), "2025-01-02T03:04:05.12"),
    (np.timedelta64(90, "m"), "PT1H30M"),
    (np.timedelta64(2, "M"), "P2M"),
    (ID, str(ID)),
    (Species.SETOSA, "setosa"),
    (Species.OTHER, "2025-01-01"),
    (Named.RED, "red"),
    (Path("app/assets"), "app/assets"),
    (PureWindowsPath("a\\b"), "a\\b"),
    (b"\xff\x00", "/wA="),
    (bytearray(b"ab"), "YWI="),
    (np.bytes_(b"ab"), "YWI="),
    (Decimal("1.5"), 1.5),
    (Decimal("12345678901234567890123"), 12345678901234567890123),
    (Decimal("1E+2"), 100),
    (np.longdouble(1.5), 1.5),
    (pd.NA, None),
    (pd.NaT, None),
    (np.datetime64("NaT"), None),
    (np.timedelta64("NaT", "s"), None),
    (np.timedelta64("NaT"), None),
    (Decimal("NaN"), None),
    (Decimal("Infinity"), None),
    (float("nan"), None),
]


@pytest.mark.parametrize(("value", "expected"), SCALARS, ids=lambda value: repr(value)[:40])
def test_scalars_have_one_form_as_value_and_as_key(value: Any, expected: Any) -> None:
    assert json_values(value) == expected
    assert json_values({"deep": [(value,)]}) == {"deep": [[expected]]}
    key = expected if isinstance(expected, str) else json.dumps(expected)
    if not isinstance(value, bytearray):
        assert json_values({value: 1}) == {key: 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset(("b", "a")), ["a", "b"]),
        ({1, "a"}, ["a", 1]),
        (deque((1, 2)), [1, 2]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        ({"a": 1}.values(), [1]),
        ({"a": 1}.items(), [["a", 1]]),
        (MappingProxyType({"a": np.int8(1)}), {"a": 1}),
        (ChainMap({"a": 1}, {"b": 2}), {"b": 2, "a": 1}),
        (UserDict(a=1), {"a": 1}),
        (UserList((1, 2)), [1, 2]),
        (memoryview(b"ab"), "YWI="),
        (memoryview(b"axb")[::2], "YWI="),
        (UserString("a"), "a"),
        (Box("a", np.array([1, 2])), {"label": "a", "corner": [1, 2], "since": "2025-01-01"}),
        (Circle(np.float32(0.5)), {"radius": 0.5, "colour": "red"}),
        (
            Row(age=3, seen=MOMENT, scores=np.array([0.5])),
            {"age": 3, "seen": "2025-01-02T03:04:05.000600", "scores": [0.5], "older": 4},
        ),
        (Labels(["a"]), ["a"]),
        (pydantic.HttpUrl("http://a.example/b"), "http://a.example/b"),
        (pydantic.SecretStr("hidden"), "**********"),
        (Pair(1, Pair(2, 3)), [1, [2, 3]]),
        (np.array(["2025-01-01", "NaT"], "M8[ns]"), ["2025-01-01T00:00:00", None]),
        (np.array([["2025-01", "2025-02"]], "M8[M]"), [["2025-01", "2025-02"]]),
        (np.array([1, "NaT"], "m8[h]"), ["PT1H", None]),
        (np.array([(1, "a")], [("n", "i4"), ("s", "U1")]), [{"n": 1, "s": "a"}]),
        (np.array([(1, "a")], [("n", "i4"), ("s", "U1")])[0], {"n": 1, "s": "a"}),
        (np.array([b"a"]), ["YQ=="]),
        (np.void(b"ab"), "YWI="),
        (np.array([1.5], np.longdouble), [1.5]),
        (np.ma.masked_array([1.5, 2.5], mask=[True, False]), [None, 2.5]),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (pd.Series([1.0, None], index=["a", "b"]), {"a": 1.0, "b": None}),
        (pd.Series([1], index=pd.to_datetime(["2025-01-01"])), {"2025-01-01T00:00:00": 1}),
        (pd.Index(["a", "b"]), ["a", "b"]),
        (pd.date_range("2025-01-01", periods=1), ["2025-01-01T00:00:00"]),
        (pd.MultiIndex.from_tuples([("a", 1)]), [["a", 1]]),
        (pd.Categorical(["a", "b"]), ["a", "b"]),
        (pd.array([1, None], dtype="Int64"), [1, None]),
        (pd.Series(["a"], dtype="string"), {"0": "a"}),
        (pl.Series([1, None]), [1, None]),
        (pl.Series([date(2025, 1, 1)]), ["2025-01-01"]),
        (pl.DataFrame({"a": [1], "b": [MOMENT]}), [{"a": 1, "b": "2025-01-02T03:04:05.000600"}]),
        (pa.table({"a": [1, None]}), [{"a": 1}, {"a": None}]),
        (pa.array([1, 2]), [1, 2]),
        (pa.scalar(1), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_and_objects_become_lists_and_dicts(value: Any, expected: Any) -> None:
    assert json_values(value) == expected
    assert json_values({"deep": [value]}) == {"deep": [expected]}
    assert json.loads(json_text(json_values(value))) == expected


def test_a_dataframe_is_its_rows_without_the_index() -> None:
    frame = pd.DataFrame(
        {
            "n": [1, 2],
            "x": [0.5, None],
            "when": pd.to_datetime(["2025-01-01", None]),
            "kind": pd.Categorical(["a", "b"]),
            "any": [{"k": np.int8(1)}, pd.NA],
            7: [True, False],
        },
        index=["first", "second"],
    )
    assert json_values({"rows": frame}) == {
        "rows": [
            {"n": 1, "x": 0.5, "when": "2025-01-01T00:00:00", "kind": "a", "any": {"k": 1}, "7": True},
            {"n": 2, "x": None, "when": None, "kind": "b", "any": None, "7": False},
        ]
    }
    assert json_values(frame[:0]) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), r"columns of different names would help"),
        (pd.Series([1, 2], index=["a", "a"]), r"labels of its index are not unique"),
        (pd.Series([1], index=pd.MultiIndex.from_tuples([("a", 1)])), r"has the key \('a', 1\), a tuple"),
        (pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", 1)])), r"has the key \('a', 1\), a tuple"),
        (pl.LazyFrame({"a": [1]}), r"\.collect\(\) would help"),
        (pd.offsets.Day(1), r"str\(\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_lose_data_is_refused(value: Any, message: str) -> None:
    with pytest.raises(NotJson, match=message):
        json_values({"value": value})


def test_the_path_leads_into_a_dataframe() -> None:
    with pytest.raises(NotJson, match=r'^result\["rows"\]\[1\]\["x"\] is a object: not JSON'):
        json_values({"rows": pd.DataFrame({"x": [1, object()]})})
    with pytest.raises(NotJson, match=r'^result\["box"\]\["corner"\] is a object: not JSON'):
        json_values({"box": Box("a", object())})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "PA", "RGBa"]
)
def test_an_image_is_a_png_in_a_data_url(mode: str) -> None:
    url = json_values({"image": Image.new(mode, (3, 2))})["image"]
    assert url.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert (image.format, image.size) == ("PNG", (3, 2))


class Tensor:
    """A tensor as PyTorch and JAX offer it."""

    __module__ = "torch"
    dtype, columns = "float32", None

    def __init__(self, values: Any) -> None:
        self.values = values

    def tolist(self) -> Any:
        return self.values

    def numpy(self) -> Any:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


class EagerTensor:
    """A tensor as TensorFlow offers it."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def numpy(self) -> Any:
        return self.values


@pytest.mark.parametrize("tensor", [Tensor([[1.5]]), EagerTensor(np.array([[1.5]], np.float32))])
def test_tensors_are_lists(tensor: Any) -> None:
    assert json_values({"t": tensor}) == {"t": [[1.5]]}


@pytest.mark.parametrize("tensor", [Tensor(0.5), EagerTensor(np.float32(0.5))])
def test_a_tensor_without_dimensions_is_a_number(tensor: Any) -> None:
    assert json_values({"t": tensor}) == {"t": 0.5}


def test_what_a_library_raises_is_named_with_the_path() -> None:
    class Broken(Tensor):
        def tolist(self) -> Any:
            raise RuntimeError("no memory on the device")

    with pytest.raises(NotJson, match=r'^result\["t"\] is a Broken: .* \(RuntimeError: no memory on the device\)$'):
        json_values({"t": Broken(1)})


class Hostile(list[int]):
    def __iter__(self) -> Any:
        raise ValueError("no items" * 1000)


class HostileDict(dict[str, int]):
    def items(self) -> Any:
        raise ValueError("no items")


class HostileClass:
    @property
    def __class__(self) -> Any:
        raise ValueError("no class")


class HostileKey:
    def __repr__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Hostile([1]), "is a Hostile: not JSON serialisable (ValueError: no items"),
        (HostileDict(a=1), "is a HostileDict: not JSON serialisable (ValueError: no items)"),
        (HostileClass(), "is a HostileClass: not JSON serialisable (ValueError: no class)"),
        ({HostileKey(): 1}, "has the key without a text, a HostileKey: not JSON serialisable (str() would help)"),
    ],
    ids=["list", "dict", "class", "key"],
)
def test_what_cannot_be_read_is_named_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(NotJson) as caught:
        json_values({"x": [value]})
    assert str(caught.value).startswith(f'result["x"][0] {message}')
    assert len(str(caught.value)) < 1000


_scalars = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(),
    some.floats(),
    some.text(),
    some.binary(max_size=20),
    some.dates(),
    some.datetimes(),
    some.times(),
    some.timedeltas(),
    some.decimals(),
    some.uuids(),
    some.sampled_from([value for value, _ in SCALARS if not isinstance(value, bytearray)]),
    some.complex_numbers(),
    some.builds(object),
)
# A signalling NaN has no hash.
_keys = _scalars.filter(lambda key: not (isinstance(key, Decimal) and key.is_snan()) and key == key)
_values = some.recursive(
    _scalars,
    lambda inner: some.one_of(
        some.lists(inner, max_size=4),
        some.tuples(inner, inner),
        some.dictionaries(_keys, inner, max_size=4),
        some.builds(Circle, inner),
        some.builds(Pair, inner, inner),
        inner.map(lambda value: np.array([value, None], dtype=object)),
        inner.map(lambda value: pd.Series([value, None], dtype=object)),
        inner.map(lambda value: pd.DataFrame({"a": pd.Series([value, None], dtype=object)})),
    ),
    max_leaves=12,
)


@given(_values)
def test_any_value_becomes_json_or_is_named_in_a_bounded_message(value: Any) -> None:
    try:
        converted = json_values({"top": value})
    except NotJson as error:
        message = str(error)
    else:
        text = json_text(converted)
        assert json.loads(text.encode()) == converted
        assert json.dumps(converted, allow_nan=False)
        return
    assert message.startswith('result["top"]')
    assert "not JSON serialisable" in message
    assert len(message) < 2000
