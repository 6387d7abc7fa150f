"""Callback URIs: their validation, their endpoint, and a form without credentials."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit


def check_uri(uri: Any) -> str:
    """`uri` when it is valid; raises ValueError with the reason otherwise."""
    if not isinstance(uri, str):
        raise ValueError(f"callback_uri must be text, not {type(uri).__name__}")
    problem = f"callback_uri must be an http or https address, not {uri!r}"
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        raise ValueError(f"callback_uri must be ASCII without spaces, percent-encoded where need be, not {uri!r}")
    try:
        parts = urlsplit(uri)
        (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(problem)
    return uri


def endpoint_of(uri: str) -> str:
    """The endpoint of `uri`, as host:port: its callbacks share limits and outages."""
    return f"{urlsplit(uri).hostname}:{port_of(uri)}"


def port_of(uri: str) -> int:
    """The port in `uri`, or its scheme's default."""
    parts = urlsplit(uri)
    return parts.port or (443 if parts.scheme == "https" else 80)


def without_password(uri: str) -> str:
    """A URI for logs and screens: without the user name and password that it may contain."""
    if "@" not in uri:
        return uri
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
