"""Where Celery stores states and results: in the task records that the api reads."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.base import BaseBackend
from celery.utils.serialization import UnpickleableExceptionWrapper
from redis import RedisError

from app.broker import connect
from app.json_values import NotJson, json_values
from app.records import ENDED, TaskRecords
from app.settings import Settings


class RecordBackend(BaseBackend):  # type: ignore[misc]
    """Celery's result backend over TaskRecords: the one place through which every state of a task passes."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        settings: Settings = app.conf.denzel_settings
        self._records = TaskRecords(connect(settings.redis_url))
        self._lifetime = settings.result_lifetime

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None, **_: Any
    ) -> None:
        if state in ENDED:
            self._records.end(task_id, state, _answer(result, state), lifetime=self._lifetime)
        else:
            self._records.start(task_id, state)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> BaseException:
        """Celery would flatten the exception here; it is needed whole."""
        return exc

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        record = self._records.find(task_id)
        if record is None:
            return {"status": states.PENDING, "result": None}
        return {"status": record.status, "result": record.result}

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """A result is stored as soon as Redis is back."""
        return isinstance(exc, RedisError)


def _answer(result: Any, state: str) -> Any:
    """The part of a record that GET /status shows: a dict, or `{"args": [...]}` of what was raised."""
    if state == states.SUCCESS:
        return result
    if not isinstance(result, BaseException):
        return {"args": [str(result)]}
    if isinstance(result, UnpickleableExceptionWrapper):
        name, arguments = result.exc_cls_name, result.exc_args
    else:
        name, arguments = type(result).__name__, result.args
    return {"args": [_argument(argument) for argument in arguments] or [name]}


def _argument(argument: Any) -> Any:
    try:
        return json_values(argument)
    except NotJson:
        return str(argument)
