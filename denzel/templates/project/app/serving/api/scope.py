"""Members of a request's ASGI scope that are denzel's own."""

from __future__ import annotations

#: Where the server has a function that breaks the connection.
ABORT = "denzel.abort"

#: Where the server finds a function to call when it stops, so that the response does not go on for long.
ON_SHUTDOWN = "denzel.on_shutdown"

#: The error that Falcon is to answer.
ERROR = "denzel.error"
