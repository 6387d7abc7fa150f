"""Text of a client in another charset than UTF-8."""

from __future__ import annotations

import codecs
import encodings
import re
from encodings.aliases import aliases

# Modules of Python's charsets. Others have decoders that take long, such as punycode, or more than text. There are few
# names: Python remembers for ever each one that it has looked up, also in vain.
_CHARSETS = re.compile(
    r"utf_(16|32)(_[lb]e)?|ascii|latin_1|iso8859_\d{1,2}|cp\d{3,4}|koi8_[rut]|mac_roman|gb2312|gbk|gb18030|big5"
    r"|big5hkscs|shift_jis(_2004)?|euc_(jp|kr)|iso2022_(jp|kr)"
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
    if codec.startswith(("utf_16", "utf_32")):
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


def is_known(charset: str) -> bool:
    """True for UTF-8, and for a charset that `decode_text` helps with."""
    return _module(charset) == "utf_8" or _codec(charset) is not None


def _codec(charset: str | None) -> str | None:
    name = _module(charset or "")
    if not _CHARSETS.fullmatch(name):
        return None
    try:
        codecs.lookup(name)
    except LookupError:
        return None
    return name


def _module(charset: str) -> str:
    """The name of the module in `encodings` with this charset, if there is one."""
    name = encodings.normalize_encoding(charset.strip("\"' ")).lower()
    return aliases.get(name) or aliases.get(name.replace(".", "_")) or name
