"""form.py: forms as Requests, curl and browsers send them, malformed ones, and any bytes."""

from __future__ import annotations

import base64
import encodings
import json
from typing import Any

import falcon
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.api.bodies.body import parse_json
from app.serving.api.bodies.form import MAX_PARTS, file_value, read_form

BOUNDARY = "multipart/form-data; boundary=b"


def sent_by_requests(**arguments: Any) -> dict[str, Any]:
    request = requests.Request("POST", "http://api/predict", **arguments).prepare()
    assert isinstance(request.body, bytes)
    return read_form(request.body, request.headers["Content-Type"])


def form(*parts: str | bytes) -> bytes:
    """A form of these parts, each with its headers, an empty line and its content."""
    encoded = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in encoded) + b"--b--\r\n"


def part(headers: str, content: str = "x") -> str:
    return f"Content-Disposition: form-data; {headers}\r\n\r\n{content}"


def file(filename: str | None, content_type: str, content: bytes) -> dict[str, Any]:
    return {"filename": filename, "content_type": content_type, "base64": base64.b64encode(content).decode()}


def test_files_and_fields_come_under_their_names() -> None:
    values = sent_by_requests(data={"threshold": "0.5"}, files={"image": ("a.png", b"\x89PNG\r\n\0", "image/png")})
    assert values == {"threshold": "0.5", "image": file("a.png", "image/png", b"\x89PNG\r\n\0")}


def test_a_name_that_comes_several_times_is_a_list() -> None:
    files = [("images", ("a.png", b"1", "image/png")), ("images", ("b.png", b"2", "image/png"))]
    values = sent_by_requests(data={"label": ["x", "y", "z"]}, files=files)
    assert values["label"] == ["x", "y", "z"]
    assert [image["filename"] for image in values["images"]] == ["a.png", "b.png"]


def test_a_part_of_json_is_parsed() -> None:
    parts = {
        "meta": (None, '{"x": [1, null]}', "application/json"),
        "blob": ("blob", "[2]", "application/vnd.api+json; charset=utf-8"),
    }
    assert sent_by_requests(files=parts) == {"meta": {"x": [1, None]}, "blob": [2]}


def test_json_without_its_type_is_text() -> None:
    assert sent_by_requests(files={"meta": (None, '{"x": 1}')}) == {"meta": '{"x": 1}'}


@pytest.mark.parametrize(
    ("name", "expected"), [("a.png", "image/png"), ("a.csv", "text/csv"), ("a.txt", "text/plain"), ("a", "text/plain")]
)
def test_a_file_without_a_type_has_that_of_its_name(name: str, expected: str) -> None:
    assert sent_by_requests(files={"upload": (name, b"1")}) == {"upload": file(name, expected, b"1")}


@pytest.mark.parametrize(
    "headers",
    [
        'name="f"; filename="Füße 日本.png"',
        'name="f"; filename="F.png"; filename*=UTF-8\'\'F%C3%BC%C3%9Fe%20%E6%97%A5%E6%9C%AC.png',
        "name=f; filename*=utf-8''F%C3%BC%C3%9Fe%20%E6%97%A5%E6%9C%AC.png",
    ],
)
def test_a_file_name_may_have_any_characters(headers: str) -> None:
    assert read_form(form(part(headers)), BOUNDARY)["f"]["filename"] == "Füße 日本.png"


def test_a_part_with_another_type_than_text_is_a_file_without_a_name() -> None:
    content = 'Content-Disposition: form-data; name="f"\r\nContent-Type: audio/wav\r\n\r\nRIFF'
    assert read_form(form(content), BOUNDARY) == {"f": file(None, "audio/wav", b"RIFF")}


def test_text_may_have_a_charset_of_its_own() -> None:
    headers = b'Content-Disposition: form-data; name="f"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n\r\n'
    assert read_form(form(headers + "naïve".encode("latin1")), BOUNDARY) == {"f": "naïve"}


def test_empty_fields_files_and_forms_are_taken() -> None:
    parts = form(part('name="text"', ""), part('name="upload"; filename=""', ""))
    assert read_form(parts, BOUNDARY) == {"text": "", "upload": file("", "text/plain", b"")}
    assert read_form(b"--b--\r\n", BOUNDARY) == {}


def test_what_stands_before_and_after_the_form_does_not_count() -> None:
    assert read_form(b"before\r\n" + form(part("name=f")) + b"after", BOUNDARY) == {"f": "x"}


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", BOUNDARY, "a boundary is missing"),
        (b'{"x": 1}', BOUNDARY, "a boundary is missing"),
        (form(part("name=f"))[:-8], BOUNDARY, "the form ends early"),
        (form(part("name=f")).replace(b"\r\n", b"\n"), BOUNDARY, "a boundary is missing"),
        (form(part("name=f")), "multipart/form-data", "no boundary of 1 to 70 characters"),
        (form(part("name=f")), "multipart/form-data; boundary=", "no boundary of 1 to 70 characters"),
        (form(part("name=f")), "multipart/form-data; boundary=" + "b" * 71, "no boundary of 1 to 70 characters"),
        (form(part("name=f")), "multipart/form-data; boundary=other", "a boundary is missing"),
        (form(part("filename=f")), BOUNDARY, "a part has no name"),
        (form("Content-Type: text/plain\r\n\r\nx"), BOUNDARY, "a part has no name"),
        (form(part('name="' + "f" * 3000 + '"')), BOUNDARY, "more than 2048 bytes"),
        (form(*[part(f"name=f{number}") for number in range(MAX_PARTS + 1)]), BOUNDARY, "500 parts at most"),
        (form(b"Content-Disposition: form-data; name=\xff\r\n\r\nx"), BOUNDARY, "the name of a part is not UTF-8"),
        (form(part("name=f").encode() + b"\xff"), BOUNDARY, "the field 'f' is neither UTF-8 nor"),
        (
            form(b"Content-Disposition: form-data; name=f\r\nContent-Type: \xff\r\n\r\nx"),
            BOUNDARY,
            "the Content-Type of 'f' is not ASCII",
        ),
        (
            form("Content-Disposition: form-data; name=f\r\nContent-Transfer-Encoding: base64\r\n\r\neA=="),
            BOUNDARY,
            "Content-Transfer-Encoding is not taken",
        ),
        (form(part("name=f; filename*=nonsense''f.png")), BOUNDARY, "invalid text or charset: nonsense"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_malformed_form_is_refused_with_what_is_wrong(body: bytes, content_type: str, reason: str) -> None:
    with pytest.raises(falcon.HTTPBadRequest) as refused:
        read_form(body, content_type)
    assert refused.value.title == "Malformed form"
    assert reason in str(refused.value.description)


def test_malformed_json_in_a_form_is_refused_with_its_field() -> None:
    content = "Content-Disposition: form-data; name=meta\r\nContent-Type: application/json\r\n\r\n{'x': 1}"
    with pytest.raises(falcon.HTTPBadRequest) as refused:
        read_form(form(content), BOUNDARY)
    assert refused.value.title == "Malformed JSON"
    assert str(refused.value.description).startswith("In the part 'meta': Malformed JSON: Expecting property name")


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        ("", None),
        ("attachment", None),
        ('attachment; filename="a.png"', "a.png"),
        ("inline; filename*=UTF-8''F%C3%BC.png", "Fü.png"),
        ('attachment; filename="Fü.png"', "Fü.png"),
        ('attachment; filename="Fü.png"'.encode().decode("latin1"), "Fü.png"),
    ],
)
def test_a_body_that_is_a_file_has_the_name_in_its_header(disposition: str, expected: str | None) -> None:
    assert file_value(b"1", "image/png", disposition) == file(expected, "image/png", b"1")


def test_a_file_name_is_no_url() -> None:
    sent = form(part('name=a; filename="data:image/gif,a.png"'), part('name=b; filename="//[x"'))
    assert read_form(sent, BOUNDARY) == {
        "a": file("data:image/gif,a.png", "image/png", b"x"),
        "b": file("//[x", "text/plain", b"x"),
    }


def test_unknown_charsets_of_file_names_are_not_remembered() -> None:
    before = len(encodings._cache)  # type: ignore[attr-defined]
    for number in range(10):
        with pytest.raises(falcon.HTTPBadRequest):
            read_form(form(part(f"name=f; filename*=nonsense-{number}''f.png")), BOUNDARY)
    assert len(encodings._cache) == before  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["utf-8''%C3%BC", "ISO-8859-1'de'%FC", "windows-1252''%FC"])
def test_a_file_name_may_be_encoded(name: str) -> None:
    assert read_form(form(part(f"name=f; filename*={name}")), BOUNDARY)["f"]["filename"] == "ü"


texts = st.text(st.characters(codec="utf-8"))
# Browsers and Requests do not escape a backslash, which escapes the quote behind it.
names = st.text(st.characters(codec="utf-8", exclude_characters="\\"), min_size=1)


@settings(deadline=None)
@given(st.dictionaries(names, st.binary(max_size=200) | texts, min_size=1, max_size=5))
def test_what_requests_sends_arrives(fields: dict[str, bytes | str]) -> None:
    parts = {name: ("a.bin" if isinstance(value, bytes) else None, value) for name, value in fields.items()}
    values = sent_by_requests(files=parts)
    content = [base64.b64decode(v["base64"]) if isinstance(v, dict) else v for v in values.values()]
    assert content == list(fields.values())


pieces = st.sampled_from(
    (
        *(b"--b", b"--b--", b"\r\n", b"\r\n\r\n", b"Content-Disposition: form-data; name=f", b"; filename="),
        *(b"Content-Type: application/json", b"Content-Type: ", b"{}", b"; filename*=utf-8''%ff", b'"', b";", b"\xff"),
    )
)


@settings(deadline=None)
@given(st.lists(pieces | st.binary(max_size=9), max_size=30))
def test_any_bytes_are_json_values_or_refused(parts: list[bytes]) -> None:
    try:
        values = read_form(b"".join(parts), BOUNDARY)
    except falcon.HTTPBadRequest:
        return
    assert parse_json(json.dumps(values).encode()) == values
