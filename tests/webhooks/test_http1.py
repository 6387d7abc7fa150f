"""Incremental parser of HTTP/1.1."""

from __future__ import annotations

import pytest

from denzel.webhooks.http1 import MalformedMessage, MessageParser, header, headers


def messages(*pieces: bytes) -> list[tuple[bytes, bytes]]:
    parser = MessageParser(body_limit=1000)
    return [message for piece in pieces for message in parser.feed(piece)]


STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLocation: /status/7\r\n\r\nhello"
    b"HTTP/1.1 204 No Content\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nabc0123456789"
    b"HTTP/1.1 503 No\r\ncontent-length:0\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, len(STREAM)])
def test_messages_are_found_in_pieces_of_any_size(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    found = messages(*pieces)
    assert [head[9:12] for head, _ in found] == [b"200", b"204", b"200", b"503"]
    assert [body for _, body in found] == [b"hello", b"", b"abc0123456789", b""]
    assert header(found[0][0], b"location") == b"/status/7"
    assert header(found[0][0], b"retry-after") == b""
    assert headers(found[0][0]) == {"content-length": "5", "location": "/status/7"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", 411),
        (b"POST / HTTP/1.1\r\n" + b"x" * 70_000, 431),
    ],
)
def test_malformed_messages_are_refused(data: bytes, status: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        messages(data)
    assert caught.value.status == status
