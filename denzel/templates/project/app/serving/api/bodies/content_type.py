"""Content-Type header: from the body of a request to the JSON values that `verify_input` gets.

JSON is the default. A form, or one body that is a file, becomes a dict with the files in base64.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qs

import falcon

from app.serving.api.bodies.body import parse_json, shortened
from app.serving.api.bodies.charset import to_utf8
from app.serving.api.bodies.content_coding import at_once, decode, read_codings
from app.serving.api.bodies.form import file_value, is_json, read_form

#: The member of the JSON that holds a body that is one file.
FILE = "file"

#: The member, field or query parameter with the address that a result is sent to.
CALLBACK_URI = "callback_uri"

#: Characters of the header at most: Falcon parses it in quadratic time.
MAX_HEADER = 2048

# The types that clients send with JSON by default, curl, urllib and PowerShell the first, browsers'
# `fetch` the second.
_JSON_BY_HABIT = frozenset(("application/x-www-form-urlencoded", "text/plain", "text/json"))

# The headers of nearly all requests, which need no look.
_PLAIN_JSON = frozenset(
    (None, "", "application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain")
)

_FORM = "multipart/form-data"
_FILES = frozenset(("text/csv", "application/pdf", "application/octet-stream"))
_FAMILIES_OF_FILES = ("image/", "audio/", "video/")


class Content(NamedTuple):
    """A request's content, by its headers; `kind` is JSON, form or file, `query` the request's."""

    kind: str
    content_type: str = ""
    disposition: str = ""
    codings: tuple[str, ...] = ()
    query: str = ""

    def values(self, body: bytes, limit: int) -> Any:
        """The JSON values of a body, of which `limit` bytes at most are decompressed; raises 400 and 413."""
        if not self.codings:
            return self._parse(body)
        with at_once:
            return self._parse(decode(body, self.codings, limit))

    def _parse(self, body: bytes) -> Any:
        if self.kind == "JSON":
            _, parameters = falcon.parse_header(self.content_type)
            return parse_json(to_utf8(body, parameters.get("charset")))
        if self.kind == "form":
            values = read_form(body, self.content_type)
        else:
            values = {FILE: file_value(body, self.content_type, self.disposition)}
        if CALLBACK_URI not in values:
            values.update(self._callback_uri())
        return values

    def _callback_uri(self) -> dict[str, Any]:
        found = parse_qs(self.query, keep_blank_values=True).get(CALLBACK_URI, [])
        return {CALLBACK_URI: found[0] if len(found) == 1 else found} if found else {}


def read_content(headers: dict[bytes, str], query: bytes) -> Content | None:
    """The content that a request announces; None for plain JSON. Raises 415 for what is not taken."""
    content_type = headers.get(b"content-type")
    encoding = headers.get(b"content-encoding")
    if encoding is None and content_type in _PLAIN_JSON:
        return None
    return Content(
        kind=_kind(content_type or ""),
        content_type=content_type or "",
        disposition=headers.get(b"content-disposition", "")[:MAX_HEADER],
        codings=read_codings(encoding),
        query=query.decode("latin1"),
    )


def _kind(content_type: str) -> str:
    """JSON, form or file."""
    # Some clients send the header twice, and some proxies join that.
    media_type = content_type.partition(";")[0].partition(",")[0].strip().lower()
    if len(content_type) > MAX_HEADER:
        raise _unsupported(content_type)
    if not media_type or media_type in _JSON_BY_HABIT or is_json(media_type):
        return "JSON"
    if media_type == _FORM:
        return "form"
    if media_type in _FILES or media_type.startswith(_FAMILIES_OF_FILES):
        return "file"
    raise _unsupported(content_type)


def _unsupported(content_type: str) -> falcon.HTTPUnsupportedMediaType:
    return falcon.HTTPUnsupportedMediaType(
        title="Unsupported Content-Type",
        description=f"The Content-Type {shortened(content_type)!r} is not taken. Send JSON as application/json, files "
        f"as multipart/form-data, or one file as image/*, audio/*, video/*, text/csv, application/pdf or "
        f"application/octet-stream.",
        # RFC 9110, section 12.5.1
        headers={
            "Accept": "application/json, multipart/form-data, image/*, audio/*, video/*, text/csv, application/pdf, "
            "application/octet-stream"
        },
    )
