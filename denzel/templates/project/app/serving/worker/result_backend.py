"""Celery's result backend over the task records that the api reads. Its private methods are those of Celery 5.7.0."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.base import BaseBackend
from celery.exceptions import TimeLimitExceeded
from celery.utils.serialization import UnpickleableExceptionWrapper
from redis import RedisError

from app.serving.errors import failure, failure_result, time_limit_result
from app.serving.settings import Settings
from app.serving.store.connection import connect
from app.serving.store.tasks import TERMINAL_STATES, TaskStore


class RecordBackend(BaseBackend):  # type: ignore[misc]
    """Celery's result backend over TaskStore: every state of a task that Celery itself runs passes here."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        settings: Settings = app.conf.denzel_settings
        self._store = TaskStore(connect(settings.redis_url))
        self._ttl = settings.result_lifetime

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **_: Any
    ) -> None:
        # The step that took it from the queue has stored that it started.
        if state in TERMINAL_STATES:
            shown = _shown(result, state)
            self._store.complete(task_id, state, shown, ttl=self._ttl, tag=_delivery_tag(request))

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> BaseException:
        """Keep the exception whole; Celery would flatten it here."""
        return exc

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        record = self._store.find(task_id)
        if record is None:
            return {"status": states.PENDING, "result": None}
        return {"status": record.status, "result": record.result}

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """True for errors of Redis: a result is stored as soon as Redis is back."""
        return isinstance(exc, RedisError)


def _delivery_tag(request: Any) -> str | None:
    """The delivery tag of the message of a request: the task's id, unless another Celery client sent it."""
    properties: dict[str, Any] = getattr(request, "properties", None) or {}
    return properties.get("delivery_tag")


def _shown(result: Any, state: str) -> Any:
    """The result that GET /status shows: a dict, or `{"args": [...]}` of what was raised."""
    if state == states.SUCCESS:
        return result
    if isinstance(result, TimeLimitExceeded):
        return time_limit_result(result.args[0])
    if not isinstance(result, BaseException):
        return {"args": [str(result)]}
    if isinstance(result, UnpickleableExceptionWrapper):
        return failure_result(result.exc_cls_name, result.exc_args)
    return failure(result)
