"""Members of a request's ASGI scope that are denzel's own."""

from __future__ import annotations

#: Where the server has a function that breaks the connection.
ABORT = "denzel.abort"

#: Where the server finds functions to call: one that ends a response that would go on, when the client has closed its
#: side or the server stops; and one that ends the waits of all requests, when the server stops.
END, ON_SHUTDOWN = "denzel.end", "denzel.on_shutdown"

#: The error that Falcon is to answer.
ERROR = "denzel.error"
