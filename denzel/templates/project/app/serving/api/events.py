"""GET /status/{task_id}/events: a task's events as Server-Sent Events (WHATWG HTML, section 9.2).

An ASGI application of its own, as POST /predict is: it must see at once that the client has gone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import falcon
import falcon.asgi

from app.serving.api import problems
from app.serving.api.auth import Authorization
from app.serving.api.bodies.body import Receive
from app.serving.api.resources import status_json, unknown_task
from app.serving.api.scope import ABORT, END, ERROR
from app.serving.queue.client import TaskQueue
from app.serving.queue.streams import TaskStream, TooManyStreams
from app.serving.queue.task_events import Event, read_cursor

#: Seconds of silence after which a comment is sent, so that no proxy takes the connection for dead.
KEEP_ALIVE = 15.0

#: Seconds for which a client may take nothing of what is sent.
SEND_TIMEOUT = 60.0

#: Milliseconds after which a client is to connect again when the stream breaks off.
RETRY = 1000

MEDIA_TYPE = "text/event-stream"

_PATH = re.compile(r"/status/([^/]+)/events")

# nginx buffers responses, and so do others that follow its header.
_HEADERS = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Events:
    """An ASGI application for these requests; and Falcon's resource at that path, which has the former's errors."""

    needs_key = True

    def __init__(self, queue: TaskQueue, authorization: Authorization) -> None:
        self._queue = queue
        self._authorization = authorization

    def before(self, app: Any) -> Any:
        """An ASGI application that answers these requests, and leaves all others and all errors to `app`."""

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            path = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
            if path is None:
                await app(scope, receive, send)
                return
            try:
                stream = await self._open(path[1], dict(scope["headers"]))
            except Exception as error:  # noqa: BLE001 (raised by `on_get`)
                scope[ERROR] = error
                await app(scope, receive, send)
                # The frames of its traceback hold the scope.
                del scope[ERROR]
                return
            await send_events(stream, scope, receive, send)

        return serve

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        """Raise the request's error."""
        raise req.scope[ERROR]

    async def on_head(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, task_id: str) -> None:
        """Answer as GET does, without a body."""
        if await self._queue.find(task_id) is None:
            raise unknown_task(task_id)
        resp.content_type = MEDIA_TYPE

    async def _open(self, task_id: str, headers: dict[bytes, bytes]) -> TaskStream:
        self._authorization.client(_text(headers.get(b"authorization")))
        return await open_stream(self._queue, task_id, _text(headers.get(b"last-event-id")))


async def open_stream(queue: TaskQueue, task_id: str, last_event_id: str | None = None) -> TaskStream:
    """The stream of a task behind this event, to be handed to `send_events`.

    Raises 404 for an unknown task, 503 when too many streams are open, and redis.RedisError when Redis is away.
    """
    try:
        stream = await queue.streams.open(task_id, read_cursor(last_event_id))
    except TooManyStreams:
        raise too_many_streams() from None
    if stream is None:
        raise unknown_task(task_id)
    return stream


def too_many_streams() -> falcon.HTTPError:
    """The answer where no other stream may be opened."""
    return problems.unavailable("Too many streams of events are open. Try again later.")


def accepts_events(accept: str | None) -> bool:
    """True when an `Accept` header names the media type of events."""
    return accept is not None and MEDIA_TYPE in accept.lower()


async def send_events(
    stream: TaskStream, scope: Any, receive: Receive, send: Any, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with a task's events until it has ended, the client has gone, or the server stops; close the stream."""
    if stream.cursor.is_at_end:
        # A client that would otherwise connect again and again: 204 ends that.
        stream.close()
        await send({"type": "http.response.start", "status": 204, "headers": [*headers]})
        await send({"type": "http.response.body", "body": b""})
        return
    scope[END] = stream.close
    gone = asyncio.get_running_loop().create_task(_close_when_gone(stream, receive))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, *_HEADERS]})
        await _send(send, b"retry: %d\n\n" % RETRY)
        while body := await _next_part(stream):
            await _send(send, body)
        await _send(send, b"", more=False)
    except TimeoutError:
        # Closing would wait for the client to take what was sent.
        scope.get(ABORT, lambda: None)()
        with suppress(asyncio.CancelledError):
            await gone
    finally:
        stream.close()
        gone.cancel()
        del scope[END]


async def _send(send: Any, body: bytes, *, more: bool = True) -> None:
    """Send a part of the body; raises TimeoutError when the client takes nothing for long."""
    async with asyncio.timeout(SEND_TIMEOUT):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _next_part(stream: TaskStream) -> bytes:
    """The next events, or a comment after a silence; nothing when the stream is over."""
    try:
        async with asyncio.timeout(KEEP_ALIVE):
            events = await stream.next()
    except TimeoutError:
        return b": still there\n\n"
    return "".join(_encoded(event, stream) for event in events).encode()


def _encoded(event: Event, stream: TaskStream) -> str:
    data = event.data
    if data is None:
        assert stream.record is not None
        data = f'{{"task_id": "{stream.task_id}", {status_json(stream.record)[1:]}'
    # JSON has no newlines.
    return f"id: {event.cursor}\nevent: {event.name}\ndata: {data}\n\n"


async def _close_when_gone(stream: TaskStream, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.close()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin1")
