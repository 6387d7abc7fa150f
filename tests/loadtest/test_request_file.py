"""Request files of drill and bench."""

from __future__ import annotations

from pathlib import Path

import pytest

from denzel.errors import RequestUnusable
from denzel.loadtest.request_file import read_requests
from denzel.project.scaffold import start_project


def test_a_file_holds_one_request_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "requests.json"
    path.write_text('{"data": 1}')
    assert read_requests(path) == [{"data": 1}]
    path.write_text('[{"data": 1}, {"data": 2}]')
    assert read_requests(path) == [{"data": 1}, {"data": 2}]
    path.write_text('{\n  "data": 1\n}\n')
    assert read_requests(path) == [{"data": 1}]


def test_a_file_holds_a_request_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"data": 1}\n\n{"data": 2}\n')
    assert read_requests(path) == [{"data": 1}, {"data": 2}]
    path.write_text('{"data": 1}\n\n{"data": 2\n')
    with pytest.raises(RequestUnusable, match=r"^Line 3 of .* is not JSON: "):
        read_requests(path)
    path.write_text('{"data": 1}\n[2]\n')
    with pytest.raises(RequestUnusable, match="cannot have a callback_uri"):
        read_requests(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read: No such file or directory."),
        ("{", "is not JSON: Expecting property name"),
        ("[]", "holds no request."),
        ("[[1, 2]]", "holds [1, 2], which is not a JSON object: it cannot have a callback_uri."),
        ('"text"', 'holds "text", which is not a JSON object: it cannot have a callback_uri.'),
    ],
)
def test_a_file_that_holds_no_requests_is_refused(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "requests.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RequestUnusable) as caught:
        read_requests(path)
    assert f"{path} {complaint}" in str(caught.value)
    assert "--file" in caught.value.hint


def test_the_example_of_a_new_project_is_a_request(tmp_path: Path) -> None:
    assert read_requests(start_project("iris", tmp_path).example) == [{"data": {}}]
