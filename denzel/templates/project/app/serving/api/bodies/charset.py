"""Text of a client in another charset than UTF-8."""

from __future__ import annotations

import codecs
import re

# Python's names of charsets. Others have decoders that take long, such as punycode, or more than text.
_CHARSETS = re.compile(
    r"utf-(16|32)(-[lb]e)?|ascii|iso8859-\d+|cp\d+|koi8-[rut]|mac-roman|gb2312|gbk|gb18030|big5|big5hkscs"
    r"|shift_jis(_2004)?|euc_(jp|kr)|iso2022_(jp|kr)"
)


def decode_text(data: bytes, charset: str | None) -> str:
    """The text, which is UTF-8 or, where it is not, has this charset; raises UnicodeDecodeError where it has neither.

    UTF-8 comes first because more clients name a wrong charset than send another. A charset that is not known counts
    as none.
    """
    codec = _codec(charset)
    if codec is None:
        return data.decode()
    # UTF-8 can hold the zero bytes of these.
    if codec.startswith(("utf-16", "utf-32")):
        return data.decode(codec)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode(codec)


def to_utf8(body: bytes, charset: str | None) -> bytes:
    """A body of JSON in UTF-8; as it is where the charset does not help."""
    if _codec(charset) is None:
        return body
    try:
        return decode_text(body, charset).encode()
    except UnicodeError:
        return body


def _codec(charset: str | None) -> str | None:
    if not charset:
        return None
    try:
        name = codecs.lookup(charset.strip("\"' ")).name
    except (LookupError, ValueError):
        return None
    return name if _CHARSETS.fullmatch(name) else None
