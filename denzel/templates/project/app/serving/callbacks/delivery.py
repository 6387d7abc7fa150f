"""Delivery attempts of callbacks: the request that is posted, and the result of each attempt."""

from __future__ import annotations

import logging
import time

from app.serving.callbacks import retry
from app.serving.callbacks.addresses import EgressDenied
from app.serving.callbacks.connections import ConnectionPool
from app.serving.callbacks.signature import webhook_headers
from app.serving.errors import failure_members
from app.serving.store.outbox import AttemptResult, Callback
from app.serving.store.tasks import SUCCESS

log = logging.getLogger(__name__)

#: Characters of an error that are kept.
ERROR_LIMIT = 500


def body(callback: Callback) -> bytes:
    """The body to post: what predict returned; else status, result, error and id of the task."""
    if callback.status == SUCCESS:
        return callback.result.encode()
    # A status and an id need no escaping.
    members = failure_members(callback.result)
    return f'{{"status": "{callback.status}", {members}, "task_id": "{callback.task_id}"}}'.encode()


class Delivery:
    """Delivery of callbacks over a pool of connections, by one attempt each."""

    def __init__(self, connections: ConnectionPool, *, key: bytes, retry_for: float) -> None:
        self._connections = connections
        self._key = key
        self._retry_for = retry_for

    async def send(self, callback: Callback) -> AttemptResult:
        """Make one attempt. It ends whatever happens, and raises nothing."""
        began = time.monotonic()
        try:
            return await self._post(callback, began)
        except EgressDenied as denied:
            return AttemptResult(error=str(denied))
        except OSError as error:
            return self._retry(callback, began, error=_describe(error), down=True)
        except Exception as error:
            log.exception("callback of task %s could not be sent", callback.task_id)
            return self._retry(callback, began, error=f"denzel's own error: {_describe(error)}", down=False)

    async def _post(self, callback: Callback, began: float) -> AttemptResult:
        content = body(callback)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "denzel",
            **webhook_headers(self._key, webhook_id=callback.webhook_id, at=int(time.time()), body=content),
        }
        response = await self._connections.post(callback.uri, content, headers)
        if retry.is_delivered(response.status):
            return AttemptResult(status=response.status, delivered=True)
        error = f"answered {response.status}"
        if not retry.is_transient(response.status):
            return AttemptResult(status=response.status, error=error)
        wait = retry.read_retry_after(response.retry_after, now=time.time())
        # An endpoint that answers with 4xx, or sends Retry-After, is not down.
        down = response.status >= 500 and wait is None
        return self._retry(callback, began, error=error, status=response.status, down=down, retry_after=wait)

    def _retry(
        self,
        callback: Callback,
        began: float,
        *,
        error: str,
        down: bool,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> AttemptResult:
        wait = retry.wait_before(
            callback.attempts + 2,
            since_first=callback.since_first + time.monotonic() - began,
            retry_for=self._retry_for,
            retry_after=retry_after,
        )
        return AttemptResult(status=status, error=error, retry_in=wait, endpoint_down=down)


def _describe(error: BaseException) -> str:
    """An error in one line of ASCII, which every log and every screen can show."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join((text or type(error).__name__).split())
    return line.encode("ascii", "backslashreplace").decode()[:ERROR_LIMIT]
