"""content_coding.py: gzip and deflate in every form, damaged, and larger than the limit."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from contextlib import suppress

import falcon
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.api.bodies.content_coding import MAX_MEMBERS, decode, read_codings

LIMIT = 1_000_000
TEXT = b'{"x": [1, 2, 3]}' * 1000


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, ()),
        ("", ()),
        ("identity", ()),
        ("gzip", ("gzip",)),
        ("GZIP", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("Deflate", ("deflate",)),
        ("deflate, gzip", ("deflate", "gzip")),
        (" gzip , , identity", ("gzip",)),
    ],
)
def test_codings_are_listed_in_the_order_in_which_they_were_applied(
    header: str | None, expected: tuple[str, ...]
) -> None:
    assert read_codings(header) == expected


@pytest.mark.parametrize("header", ["br", "zstd", "compress", "gzip;q=1", "gzip, br", "*", ",".join(["gzip"] * 4)])
def test_another_coding_is_refused_with_those_that_are_taken(header: str) -> None:
    with pytest.raises(falcon.HTTPUnsupportedMediaType) as refused:
        read_codings(header)
    assert repr(header) in str(refused.value.description)
    assert refused.value.headers == {"Accept-Encoding": "gzip, deflate"}


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ((), TEXT),
        (("gzip",), gzip.compress(TEXT)),
        (("gzip",), gzip.compress(TEXT[:99]) + gzip.compress(b"") + gzip.compress(TEXT[99:])),
        (("gzip",), gzip.compress(TEXT) + bytes(40_000)),
        (("deflate",), zlib.compress(TEXT)),
        (("deflate",), zlib.compress(TEXT, 0)),
        (("deflate",), raw_deflate(TEXT)),
        (("deflate", "gzip"), gzip.compress(zlib.compress(TEXT))),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_a_body_is_decompressed(codings: tuple[str, ...], body: bytes) -> None:
    assert decode(body, codings, LIMIT) == TEXT


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40_000), min_size=1, max_size=4))
def test_members_of_any_length_are_joined(members: list[bytes]) -> None:
    assert decode(b"".join(map(gzip.compress, members)), ("gzip",), LIMIT) == b"".join(members)


@pytest.mark.parametrize(
    ("coding", "body", "reason"),
    [
        ("gzip", b"", "its gzip data end early"),
        ("gzip", gzip.compress(TEXT)[:-1], "its gzip data end early"),
        ("gzip", gzip.compress(TEXT)[:9], "its gzip data end early"),
        ("gzip", TEXT, "it is not gzip data, or damaged"),
        ("gzip", gzip.compress(TEXT)[:-8] + bytes(8), "it is not gzip data, or damaged"),
        ("gzip", gzip.compress(TEXT) + b"{}", "it is not gzip data, or damaged"),
        ("gzip", gzip.compress(TEXT) + gzip.compress(TEXT)[:-1], "its gzip data end early"),
        ("deflate", zlib.compress(TEXT)[:-1], "its deflate data end early"),
        ("deflate", raw_deflate(TEXT)[:-1], "its deflate data end early"),
        ("deflate", zlib.compress(TEXT) + b"\0", "something follows its deflate data"),
        ("deflate", TEXT, "it is not deflate data, or damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_body_is_refused_with_what_is_wrong(coding: str, body: bytes, reason: str) -> None:
    with pytest.raises(falcon.HTTPBadRequest) as refused:
        decode(body, (coding,), LIMIT)
    assert refused.value.description == f"The body cannot be decompressed: {reason}."


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_decompressed_or_refused(body: bytes, coding: str) -> None:
    for damaged in (body, gzip.compress(TEXT)[:50] + body, zlib.compress(TEXT)[:30] + body):
        with suppress(falcon.HTTPBadRequest, falcon.HTTPContentTooLarge):
            assert len(decode(damaged, (coding,), LIMIT)) <= LIMIT


def test_the_limit_is_for_what_is_decompressed() -> None:
    assert len(decode(gzip.compress(bytes(LIMIT)), ("gzip",), LIMIT)) == LIMIT
    with pytest.raises(falcon.HTTPContentTooLarge):
        decode(gzip.compress(bytes(LIMIT + 1)), ("gzip",), LIMIT)


@pytest.mark.parametrize("codings", [("gzip",), ("deflate", "gzip")])
def test_a_bomb_takes_no_more_memory_than_the_limit(codings: tuple[str, ...]) -> None:
    bomb = gzip.compress(bytes(300 * LIMIT), 1)
    if len(codings) == 2:
        bomb = gzip.compress(zlib.compress(bytes(300 * LIMIT), 1))
    tracemalloc.start()
    try:
        with pytest.raises(falcon.HTTPContentTooLarge):
            decode(bomb, codings, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


def test_very_many_members_take_time_in_proportion() -> None:
    assert decode(gzip.compress(b"") * MAX_MEMBERS, ("gzip",), LIMIT) == b""


def test_a_body_of_very_many_empty_members_is_refused() -> None:
    members = gzip.compress(b"") * (MAX_MEMBERS + 1)
    with pytest.raises(falcon.HTTPBadRequest) as refused:
        decode(gzip.compress(members), ("gzip", "gzip"), LIMIT)
    assert "more than 10000 members" in str(refused.value.description)
