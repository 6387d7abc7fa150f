"""Incremental parser of HTTP/1.1 messages (RFC 9112), as lean as a load generator needs it."""

from __future__ import annotations

from collections.abc import Iterator

#: Bytes that the head of a message may have.
HEAD_LIMIT = 64 * 1024


class MalformedMessage(Exception):
    """Input that is not HTTP, or too long; `status` is the error that a server answers with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class MessageParser:
    """Splits a stream of bytes into whole messages."""

    def __init__(self, *, body_limit: int) -> None:
        self._buffer = bytearray()
        self._body_limit = body_limit
        #: Bytes of the buffer that were already searched for the end of a head.
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the head and the body of each message that is complete now; raises MalformedMessage."""
        self._buffer += data
        while (message := self._take()) is not None:
            yield message

    def _take(self) -> tuple[bytes, bytes] | None:
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(self._buffer)
            if self._searched > HEAD_LIMIT:
                raise MalformedMessage(431)
            return None
        self._searched = end
        head = bytes(self._buffer[:end])
        chunked = b"chunked" in header(head, b"transfer-encoding")
        body = self._chunked(end + 4) if chunked else self._sized(head, end + 4)
        if body is None:
            return None
        content, end = body
        del self._buffer[:end]
        self._searched = 0
        return head, content

    def _sized(self, head: bytes, start: int) -> tuple[bytes, int] | None:
        """The body of a message with a Content-Length, and where it ends; None while it is incomplete."""
        end = start + self._number(header(head, b"content-length") or b"0", 10)
        return (bytes(self._buffer[start:end]), end) if len(self._buffer) >= end else None

    def _chunked(self, start: int) -> tuple[bytes, int] | None:
        """The same for a chunked body (RFC 9112, section 7.1) without trailers."""
        parts: list[bytes] = []
        while (end := self._buffer.find(b"\r\n", start)) >= 0:
            size = self._number(bytes(self._buffer[start:end]).partition(b";")[0].strip(), 16)
            start = end + 2
            if size == 0:
                end = self._buffer.find(b"\r\n", start)
                return (b"".join(parts), end + 2) if end >= 0 else None
            if len(self._buffer) < start + size + 2:
                return None
            parts.append(bytes(self._buffer[start : start + size]))
            start += size + 2
        return None

    def _number(self, text: bytes, base: int) -> int:
        # Python refuses to parse numbers of thousands of digits.
        if not text.isalnum() or len(text) > 18:
            raise MalformedMessage(400)
        try:
            number = int(text, base)
        except ValueError:
            raise MalformedMessage(400) from None
        if number > self._body_limit:
            raise MalformedMessage(413)
        return number


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header, by its name in lower case; empty when there is none."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return (head[start:] if end < 0 else head[start:end]).strip()
