"""content_type.py: which bodies are JSON, a form or a file, and what of them reaches verify_input."""

from __future__ import annotations

import encodings
import gzip
import json
import tracemalloc
from typing import Any

import falcon
import pytest

from app.serving.api.bodies.body import parse_json
from app.serving.api.bodies.content_type import read_content

LIMIT = 1_000_000


def read(body: bytes, content_type: str | None = None, query: bytes = b"", **headers: str) -> Any:
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    if content_type is not None:
        named[b"content-type"] = content_type
    content = read_content(named, query)
    return parse_json(body) if content is None else content.values(body, LIMIT)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON ; Charset=UTF-8",
        "application/json, application/json",
        "application/json; charset=nonsense",
        'application/json; charset="utf-8"',
        "application/ld+json",
        "application/x-www-form-urlencoded",
        "application/x-www-form-urlencoded; charset=utf-8",
        "text/plain",
        "text/plain;charset=UTF-8",
        "text/json",
    ],
)
def test_json_is_taken_under_each_type_that_clients_send(content_type: str | None) -> None:
    assert read('{"x": "naïve ☃"}'.encode(), content_type) == {"x": "naïve ☃"}


@pytest.mark.parametrize(
    ("charset", "codec"),
    [
        ("latin1", "latin1"),
        ("ISO-8859-1", "latin1"),
        ("iso-8859-1", "utf-8"),
        ("windows-1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-16le", "utf-16-le"),
        ("utf-32", "utf-32"),
        ("utf-8", "utf-8-sig"),
        ("utf-8", "utf-16"),
    ],
)
def test_json_in_another_charset_is_read(charset: str, codec: str) -> None:
    body = json.dumps({"x": "naïve"}, ensure_ascii=False).encode(codec)
    assert read(body, f"application/json; charset={charset}") == {"x": "naïve"}


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "punycode", "zip", "nonsense", "\0"])
def test_json_in_no_charset_is_malformed(charset: str) -> None:
    with pytest.raises(falcon.HTTPBadRequest) as refused:
        read(b'{"x": "\xff"}', f"application/json; charset={charset}")
    assert refused.value.title == "Malformed JSON"


def test_the_place_of_a_number_is_found_in_little_memory() -> None:
    body = b'{"%s": [%sNaN]}' % (b"k" * 10_000, b"1," * 20_000)
    tracemalloc.start()
    try:
        with pytest.raises(falcon.HTTPBadRequest) as refused:
            read(body)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert 'NaN is not JSON at ["kkk' in str(refused.value.description)


def test_unknown_charsets_are_not_remembered() -> None:
    before = len(encodings._cache)  # type: ignore[attr-defined]
    for number in range(10):
        assert read(b"{}", f"application/json; charset=unknown-{number}") == {}
    assert len(encodings._cache) == before, "which has no bound"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content_type",
    [
        "image/png",
        "image/svg+xml",
        "audio/wav",
        "video/mp4",
        "text/csv; charset=latin1",
        "application/pdf",
        "application/octet-stream",
        "IMAGE/PNG",
    ],
)
def test_a_body_of_one_of_these_types_is_a_file(content_type: str) -> None:
    expected = {"file": {"filename": "a", "content_type": content_type, "base64": "MQ=="}}
    assert read(b"1", content_type, content_disposition="attachment; filename=a") == expected


@pytest.mark.parametrize(
    "content_type",
    [
        "application/xml",
        "text/html",
        "multipart/mixed; boundary=b",
        "application/zip",
        "application/x-ndjson",
        "nonsense",
        "json",
        "/",
        "image",
        'application/json; x="' + ";" * 3000,
    ],
)
def test_any_other_type_is_refused_with_those_that_are_taken(content_type: str) -> None:
    with pytest.raises(falcon.HTTPUnsupportedMediaType) as refused:
        read(b"{}", content_type)
    assert repr(content_type)[:30] in str(refused.value.description)
    assert "application/json, multipart/form-data, image/*" in dict(refused.value.headers or {})["Accept"]


def test_files_and_forms_may_be_compressed() -> None:
    form = b"--b\r\nContent-Disposition: form-data; name=f\r\n\r\nx\r\n--b--\r\n"
    assert read(gzip.compress(b"1"), "image/png", content_encoding="gzip")["file"]["base64"] == "MQ=="
    assert read(gzip.compress(form), "multipart/form-data; boundary=b", content_encoding="gzip") == {"f": "x"}


FORM = b'--b\r\nContent-Disposition: form-data; name="callback_uri"\r\n\r\nhttp://a\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("body", "content_type", "query", "expected"),
    [
        (FORM, "multipart/form-data; boundary=b", b"", "http://a"),
        (FORM, "multipart/form-data; boundary=b", b"callback_uri=http://b", "http://a"),
        (b"--b--", "multipart/form-data; boundary=b", b"callback_uri=http://b", "http://b"),
        (b"1", "image/png", b"x=1&callback_uri=http%3A%2F%2Fb%3Fc%3Dd", "http://b?c=d"),
        (b"1", "image/png", b"callback_uri=", ""),
        (b"1", "image/png", b"callback_uri=a&callback_uri=b", ["a", "b"]),
        (b"1", "image/png", b"callback_uri", ""),
        (b"1", "image/png", b"\xff=%zz", None),
        (b"{}", "application/json", b"callback_uri=http://b", None),
    ],
)
def test_the_callback_uri_of_files_is_a_field_or_a_query_parameter(
    body: bytes, content_type: str, query: bytes, expected: Any
) -> None:
    assert read(body, content_type, query).get("callback_uri") == expected
