"""Content-Encoding header (RFC 9110, section 8.4): the decompression of request bodies, within a limit."""

from __future__ import annotations

import threading
import zlib

import falcon

from app.serving.api.bodies.body import shortened, too_large

#: Codings that one body may have, one over the other.
MAX_CODINGS = 3

#: Members of one gzip body, each of which takes time however short it is.
MAX_MEMBERS = 10_000

#: Bodies of one process that are decompressed at once: each may take many times its limit, however short it came.
MAX_AT_ONCE = 4

_GZIP = "gzip"
_DEFLATE = "deflate"
_CODINGS = {_GZIP: _GZIP, "x-gzip": _GZIP, _DEFLATE: _DEFLATE}

# zlib's `wbits`: a gzip header, a zlib header (RFC 1950), or none.
_WBITS_GZIP, _WBITS_ZLIB, _WBITS_RAW = 31, 15, -15

# zlib copies what is left of its input at each end of a gzip member: little is left of little.
_SLICE = 16 * 1024

#: To be held while a body is decompressed and parsed.
at_once = threading.BoundedSemaphore(MAX_AT_ONCE)


def read_codings(header: str | None) -> tuple[str, ...]:
    """The codings of a Content-Encoding header, in the order in which they were applied; raises 415 for others."""
    names = [name.strip().lower() for name in (header or "").split(",")]
    applied = [name for name in names if name not in ("", "identity")]
    if len(applied) > MAX_CODINGS or not all(name in _CODINGS for name in applied):
        raise falcon.HTTPUnsupportedMediaType(
            title="Unsupported Content-Encoding",
            description=f"The Content-Encoding {shortened(header or '')!r} is not taken. Send the body with gzip or "
            f"deflate, or as it is.",
            # RFC 9110, section 15.5.16
            headers={"Accept-Encoding": "gzip, deflate"},
        )
    return tuple(_CODINGS[name] for name in applied)


def decode(body: bytes, codings: tuple[str, ...], limit: int) -> bytes:
    """The body before these codings; raises 413 beyond `limit` bytes of it, and 400 where it is damaged."""
    for coding in reversed(codings):
        body = _decompress(body, coding, limit)
    return body


def _decompress(body: bytes, coding: str, limit: int) -> bytes:
    wbits = _WBITS_GZIP if coding == _GZIP else _WBITS_ZLIB if _has_zlib_header(body) else _WBITS_RAW
    decoder = zlib.decompressobj(wbits)
    parts: list[bytes] = []
    size, members = 0, 1
    for start in range(0, len(body), _SLICE):
        data = body[start : start + _SLICE]
        while data:
            if decoder.eof:
                data = _next_member(data, coding)
                if not data:
                    break
                members += 1
                if members > MAX_MEMBERS:
                    raise _damaged(f"its {coding} data have more than {MAX_MEMBERS} members")
                decoder = zlib.decompressobj(wbits)
            try:
                part = decoder.decompress(data, limit - size + 1)
            except zlib.error as error:
                raise _damaged(f"it is not {coding} data, or damaged") from error
            if part:
                parts.append(part)
            size += len(part)
            if size > limit:
                raise too_large(limit)
            data = decoder.unused_data
    if not decoder.eof:
        raise _damaged(f"its {coding} data end early")
    return b"".join(parts)


def _next_member(data: bytes, coding: str) -> bytes:
    """The rest of a slice behind compressed data: in gzip another member (RFC 1952, section 2.2), after any padding."""
    if coding != _GZIP:
        raise _damaged(f"something follows its {coding} data")
    return data.lstrip(b"\0")


def _has_zlib_header(body: bytes) -> bool:
    """True for RFC 1950, which "deflate" means; some clients send RFC 1951 without a header (RFC 9110, 8.4.1.2)."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _damaged(reason: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(title="Malformed body", description=f"The body cannot be decompressed: {reason}.")
