"""multipart/form-data (RFC 7578): the fields and files of a form as JSON values."""

from __future__ import annotations

import base64
import mimetypes
import re
from io import BytesIO
from typing import Any

import falcon
from falcon.media import MultipartFormHandler
from falcon.media.multipart import BodyPart, MultipartParseError, MultipartParseOptions
from falcon.util import BufferedReader

from app.serving.api.bodies.body import parse_json, shortened
from app.serving.api.bodies.charset import decode_text, is_known, to_utf8

#: Parts of one form, and bytes of a part's headers: Falcon parses a header in quadratic time.
MAX_PARTS = 500
MAX_PART_HEADERS = 2048

# The charset of a name that is encoded (RFC 8187), as Falcon reads it.
_ENCODED = re.compile(r"([\w-]+)'\w*'.")

_options = MultipartParseOptions()
_options.max_body_part_count = MAX_PARTS
_options.max_body_part_headers_size = MAX_PART_HEADERS
_handler = MultipartFormHandler(_options)


def read_form(body: bytes, content_type: str) -> dict[str, Any]:
    """The fields by their names, in a list where a name came several times; raises 400 for a malformed form.

    A file is a dict (see `file_value`), a part of JSON is what that holds, any other a string.
    """
    found: dict[str, list[Any]] = {}
    try:
        form = _handler.deserialize(BytesIO(body), content_type, len(body))
        for part in form:
            found.setdefault(_name(part), []).append(_value(part))
    except MultipartParseError as error:
        raise _malformed(_REASONS.get(error.description or "", error.description or "it cannot be read")) from error
    except falcon.HTTPInvalidHeader as error:
        raise _malformed("its Content-Type has no boundary of 1 to 70 characters; let your client set it") from error
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def file_value(data: bytes, content_type: str, disposition: str) -> dict[str, Any]:
    """A body that is one file, as a form gives a file; its name is in the request's Content-Disposition, if any."""
    return _file(data, content_type, _header_filename(disposition) if disposition else None)


def is_json(media_type: str) -> bool:
    """True for application/json and whatever is based on it (RFC 6839, section 3.1)."""
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))


# What Falcon says, in words for the client.
_REASONS = {
    "unexpected form structure": "a boundary is missing or not where it belongs, or the form ends early",
    "incomplete body part headers": f"the headers of a part do not end, or have more than {MAX_PART_HEADERS} bytes",
    "maximum number of form body parts exceeded": f"it may have {MAX_PARTS} parts at most",
    "the deprecated Content-Transfer-Encoding header field is unsupported": "Content-Transfer-Encoding is not taken in "
    "a form: send the file as it is",
}


def _name(part: BodyPart) -> str:
    try:
        name = part.name
    except UnicodeDecodeError as error:
        raise _malformed("the name of a part is not UTF-8") from error
    if not name:
        raise _malformed("a part has no name; its headers begin with Content-Disposition: form-data; name=...")
    return name


def _value(part: BodyPart) -> Any:
    try:
        content_type = part.content_type
    except UnicodeDecodeError as error:
        raise _malformed(f"the Content-Type of {_shown(part)} is not ASCII") from error
    filename = _filename(part)
    data = part.stream.read()
    media_type, parameters = falcon.parse_header(content_type)
    media_type = media_type.lower()
    if is_json(media_type):
        return _json(part, data, parameters.get("charset"))
    if filename is None and media_type.startswith("text/"):
        return _text(part, data, parameters.get("charset"))
    if media_type == "text/plain":
        # The default (RFC 7578, section 4.4), also of clients that send any file without a type.
        # The dot lets no name be a URL, which Python 3.13 parses and may refuse.
        content_type = mimetypes.guess_type(f"./{filename or ''}")[0] or content_type
    return _file(data, content_type, filename)


def _filename(part: BodyPart) -> str | None:
    """The name of a file; raises 400 for a charset that is not known, before Falcon lets Python look that up."""
    # BodyPart has no public way to its headers; read at Falcon 4.4.0.
    _, parameters = falcon.parse_header(part._headers.get(b"content-disposition", b"").decode())
    encoded = _ENCODED.match(parameters.get("filename*", ""))
    if encoded is not None and not is_known(encoded[1]):
        raise _malformed(f"invalid text or charset: {shortened(encoded[1])}")
    return part.filename


def _file(data: bytes, content_type: str, filename: str | None) -> dict[str, Any]:
    return {"filename": filename, "content_type": content_type, "base64": base64.b64encode(data).decode()}


def _json(part: BodyPart, data: bytes, charset: str | None) -> Any:
    try:
        return parse_json(to_utf8(data, charset))
    except falcon.HTTPBadRequest as error:
        raise falcon.HTTPBadRequest(
            title=error.title, description=f"In the part {_shown(part)}: {error.description}"
        ) from error


def _text(part: BodyPart, data: bytes, charset: str | None) -> str:
    try:
        return decode_text(data, charset)
    except UnicodeDecodeError as error:
        raise _malformed(f"the field {_shown(part)} is neither UTF-8 nor in a charset that it names") from error


def _header_filename(disposition: str) -> str | None:
    raw = disposition.encode("latin1")
    try:
        raw.decode()
    except UnicodeDecodeError:
        raw = disposition.encode()
    return _filename(BodyPart(BufferedReader(BytesIO().read, 0), {b"content-disposition": raw}, _options))


def _shown(part: BodyPart) -> str:
    return repr(shortened(part.name or ""))


def _malformed(reason: str) -> falcon.HTTPBadRequest:
    return falcon.HTTPBadRequest(title="Malformed form", description=f"The multipart/form-data is malformed: {reason}.")
