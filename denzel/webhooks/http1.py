"""Incremental parser of HTTP/1.1 messages with a Content-Length (RFC 9112), as lean as a load generator needs it."""

from __future__ import annotations

from collections.abc import Iterator

#: Bytes that the head of a message may have.
HEAD_LIMIT = 64 * 1024


class MalformedMessage(Exception):
    """Input that is not HTTP, too long or of unknown length; `status` is the error that a server answers with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class MessageParser:
    """Splits a stream of bytes into whole messages; a chunked body is refused."""

    def __init__(self, *, body_limit: int) -> None:
        self._body_limit = body_limit
        #: What has arrived of the next message, and how many bytes of it were searched for the end of its head.
        self._rest = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the head and the body of each message that is complete now; raises MalformedMessage."""
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
        start = 0
        while (middle := buffer.find(b"\r\n\r\n", max(start, self._searched - 3))) >= 0:
            head = bytes(buffer[start:middle])
            end = middle + 4 + self._body_length(head)
            if len(buffer) < end:
                break
            yield head, bytes(buffer[middle + 4 : end])
            start = self._searched = end
        self._searched = (middle if middle >= 0 else len(buffer)) - start
        if buffer is self._rest:
            del self._rest[:start]
        elif start < len(data):
            self._rest = bytearray(data[start:])
        if middle < 0 and self._searched > HEAD_LIMIT:
            raise MalformedMessage(431)

    def _body_length(self, head: bytes) -> int:
        length = header(head, b"content-length")
        if not length:
            if header(head, b"transfer-encoding"):
                raise MalformedMessage(411)
            return 0
        if not length.isdigit():
            raise MalformedMessage(411)
        # Python refuses to parse numbers of thousands of digits.
        if len(length) > 18 or int(length) > self._body_limit:
            raise MalformedMessage(413)
        return int(length)


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header, by its name in lower case; empty when there is none."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return (head[start:] if end < 0 else head[start:end]).strip()


def headers(head: bytes) -> dict[str, str]:
    """All headers, by their names in lower case."""
    pairs = [line.partition(":") for line in head.decode("latin1").split("\r\n")[1:]]
    return {name.lower(): value.strip() for name, _, value in pairs}
