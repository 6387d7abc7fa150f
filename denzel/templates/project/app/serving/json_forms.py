"""JSON forms of the objects of data libraries, found by what their types offer: none of these is imported here.

Each form is one step: a value of Python's own types, which may hold further objects.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections import UserString, deque
from collections.abc import KeysView, Mapping, Sequence, Set, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

#: Digits of a Decimal that is written as a whole number; of more, a float is made.
MAX_DIGITS = 4000

# Modes of Pillow's images that a PNG can have.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

# What would help with a value that has no form, by what its type offers.
_HINTS = (
    ("toarray", ".toarray()"),
    ("collect", ".collect()"),
    ("to_dict", ".to_dict()"),
    ("compute", ".compute()"),
    ("savefig", "the base64 text of the PNG that savefig writes"),
    ("getbuffer", "the base64 text of .getvalue()"),
    ("getvalue", ".getvalue()"),
    ("read", "the base64 text of .read()"),
    ("__next__", "list()"),
    ("__await__", "asyncio.run()"),
    ("tolist", ".tolist()"),
    ("to_numpy", ".to_numpy()"),
    ("numerator", "float(), or str()"),
    ("conjugate", "str(), or .real and .imag"),
)


class Plain(NamedTuple):
    """A form that consists of JSON values already."""

    value: Any


class NoForm(Exception):
    """A value has no JSON form; `advice` is what would help."""

    def __init__(self, advice: str) -> None:
        self.advice = advice


def simpler(value: Any) -> Any:
    """The JSON form of `value`, which is none of str, int, float, bool, None, dict, list and tuple, but may be an Enum.

    Raises NoForm, and what the methods of a foreign object raise.
    """
    kind = type(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes | bytearray | memoryview):
        # A view may skip some of the bytes, which base64 cannot read as it is.
        content = value.tobytes() if isinstance(value, memoryview) else value
        return base64.b64encode(content).decode("ascii")
    if isinstance(value, datetime | date | time):
        # pandas' NaT is a datetime, and unequal to itself.
        return value.isoformat() if value == value else None
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, UUID | PurePath | UserString):
        return str(value)
    if _is_numpy(kind):
        return _numpy(value)
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(kind, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name) for field in kind.__attrs_attrs__}
    return _of_a_library(value, kind)


def _of_a_library(value: Any, kind: type[Any]) -> Any:
    module = kind.__module__.partition(".")[0]
    if hasattr(kind, "model_dump"):
        return value.model_dump()
    if hasattr(kind, "__fields__") and hasattr(kind, "parse_obj"):
        # Of pydantic 1.
        return {name: getattr(value, name) for name in value.__fields__}
    if hasattr(kind, "unicode_string") or hasattr(kind, "get_secret_value"):
        # An address of pydantic; a secret, whose text is asterisks, as in pydantic's own JSON.
        return str(value)
    if hasattr(kind, "to_dict") and hasattr(kind, "iloc"):
        return _table(value) if hasattr(kind, "columns") else _labelled(value)
    for method in ("to_dicts", "to_pylist", "to_list"):
        # A table of polars or Arrow; a column of those, an index.
        if hasattr(kind, method):
            return getattr(value, method)()
    if module == "pandas":
        return _pandas_scalar(value, kind)
    if hasattr(kind, "tolist"):
        return _listed(value)
    if hasattr(kind, "numpy"):
        return value.numpy()
    if hasattr(kind, "as_py"):
        return value.as_py()
    if module == "PIL" and hasattr(kind, "save"):
        return _image(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set | KeysView):
        return _sorted(value)
    if isinstance(value, Sequence | deque | ValuesView):
        return list(value)
    raise NoForm(_advice(kind))


def _advice(kind: type[Any]) -> str:
    return next((text for method, text in _HINTS if hasattr(kind, method)), "str(), or a dict of what it holds")


def _is_numpy(kind: type[Any]) -> bool:
    return any(base.__module__.partition(".")[0] == "numpy" for base in kind.__mro__) and hasattr(kind, "dtype")


def _numpy(value: Any) -> Any:
    """The form of an array or a scalar of NumPy."""
    if value.dtype.names:
        names = value.dtype.names
        return {name: value[name] for name in names} if value.ndim == 0 else list(value)
    if value.dtype.kind == "M":
        return _nested(value.astype(str).tolist(), _short_time)
    if value.dtype.kind == "m":
        return _numpy_duration(value)
    # Extensions of NumPy's types, such as bfloat16, have the same kind.
    if value.dtype.kind == "V" and value.dtype.type.__name__ == "void":
        return value.tobytes() if value.ndim == 0 else list(value)
    listed = _listed(value)
    return Plain(listed) if value.ndim and _is_plain(value) else listed


def _is_plain(array: Any) -> bool:
    """True for an array of whole numbers, booleans, or numbers that are all finite. It may be a masked one."""
    if hasattr(array, "mask"):
        return False
    kind = array.dtype.kind
    return kind in "biu" or (kind == "f" and array.dtype.itemsize <= 8 and bool(abs(array).max(initial=0) < math.inf))


def _numpy_duration(value: Any) -> Any:
    unit = value.dtype.str[4:-1]
    if unit in ("Y", "M"):
        return _nested(value.astype("i8").tolist(), lambda count: None if count == -(2**63) else f"P{count}{unit}")
    if not unit:
        return _nested(value.astype("i8").tolist(), _without_unit)
    return _nested(value.astype("m8[ns]").astype("i8").tolist(), _nanoseconds)


def _without_unit(count: int) -> None:
    """NaT is null without a unit too; any other count says nothing."""
    if count != -(2**63):
        raise NoForm("int()")


def _nested(value: Any, convert: Any) -> Any:
    return [_nested(item, convert) for item in value] if isinstance(value, list) else convert(value)


def _short_time(text: str) -> str | None:
    """An ISO 8601 time without zeros at the end of its fraction; NumPy writes nine digits."""
    if text == "NaT":
        return None
    return text.rstrip("0").rstrip(".") if "." in text else text


def _listed(value: Any) -> Any:
    listed = value.tolist()
    if type(listed) is type(value):
        # Of a number that is wider or narrower than Python's.
        return float(value)
    return listed


def _duration(value: timedelta) -> str | None:
    if value != value:
        return None
    microseconds = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    return _nanoseconds(microseconds * 1000 + getattr(value, "nanoseconds", 0))


def _nanoseconds(count: int) -> str | None:
    """A duration as in ISO 8601: P1DT2H3M4.5S. Days have 24 hours, and years and months are not used."""
    if count == -(2**63):
        # NumPy's NaT.
        return None
    sign, count = ("-", -count) if count < 0 else ("", count)
    seconds, rest = divmod(count, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    clock = "".join(f"{number}{unit}" for number, unit in ((hours, "H"), (minutes, "M")) if number)
    if seconds or fraction or not (days or clock):
        clock += f"{seconds}{fraction}S"
    return f"{sign}P{f'{days}D' if days else ''}{f'T{clock}' if clock else ''}"


def _decimal(value: Decimal) -> int | float | None:
    if not value.is_finite():
        return None
    if value == value.to_integral_value() and value.adjusted() < MAX_DIGITS:
        return int(value)
    number = float(value)
    if math.isinf(number):
        raise NoForm("str()")
    return number


def _table(frame: Any) -> list[dict[Any, Any]]:
    """The rows of a DataFrame, each a dict by column. The index is no part of them."""
    names = list(frame.columns)
    if len(set(names)) < len(names):
        raise NoForm("columns of different names")
    columns = [frame.iloc[:, number].tolist() for number in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _labelled(series: Any) -> dict[Any, Any]:
    labels = series.index.tolist()
    if len(set(labels)) < len(labels):
        raise NoForm(".tolist(), as labels of its index are not unique,")
    return dict(zip(labels, series.tolist(), strict=True))


def _pandas_scalar(value: Any, kind: type[Any]) -> Any:
    if kind.__name__ == "NAType":
        return None
    if kind.__name__ in ("Period", "Interval"):
        return str(value)
    if hasattr(kind, "tolist"):
        return value.tolist()
    raise NoForm(_advice(kind))


def _sorted(values: Any) -> list[Any]:
    """In one order, whatever the process; of values that cannot be compared, in that of their texts."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)


def _image(image: Any) -> str:
    """A PNG as a data URL."""
    buffer = io.BytesIO()
    transparent = image.mode in ("La", "PA", "RGBa")
    png = image if image.mode in _PNG_MODES else image.convert("RGBA" if transparent else "RGB")
    png.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
