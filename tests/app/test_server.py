"""app/server.py: what gunicorn answers when the request never reaches the application."""

from __future__ import annotations

import json
import socket

import pytest

from app.server import write_error


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (400, "Bad Request", "Invalid Request Line 'nonsense'"),
        (431, "Request Header Fields Too Large", "Error parsing headers: 'limit'"),
        (500, "Internal Server Error", ""),
        (501, "", "Unsupported transfer coding"),
        (400, "Bad Request", "Invalid Method 'G\u00e9T <script>'"),
    ],
)
def test_the_error_is_an_http_answer_in_the_shape_of_the_api(status: int, reason: str, message: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        write_error(ours, status, reason, message)
        ours.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: theirs.recv(65536), b"")).decode("latin1")
    head, _, body = answer.partition("\r\n\r\n")
    assert head.splitlines()[0].startswith(f"HTTP/1.1 {status} ")
    assert "Content-Type: application/json; charset=utf-8" in head.splitlines()
    assert f"Content-Length: {len(body)}" in head.splitlines()
    assert "Connection: close" in head.splitlines()
    problem = json.loads(body)
    assert sorted(problem) == ["description", "status", "title"]
    assert problem["status"] == status
    assert problem["title"]
    assert problem["description"] == (message or problem["title"])
