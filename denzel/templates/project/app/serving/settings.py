"""Settings of the serving code: environment variables, read once, typed and frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

Value = TypeVar("Value")


class SettingError(ValueError):
    """An environment variable has an invalid value; the message names it, its value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class ResponseMode:
    """The response mode of POST /predict: the task id at once, or the result after waiting up to `timeout` seconds."""

    synchronous: bool
    timeout: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one deployment. Times are in seconds, sizes in bytes but for `worker_max_mb`. Its `repr` omits
    the secrets, as Celery's configuration is shown on the dashboard.
    """

    project_name: str
    redis_url: str = field(repr=False)
    response: ResponseMode
    api_threads: int
    api_keys: frozenset[str] = field(repr=False)
    shares_model: bool
    body_limit: int
    queue_limit: int
    result_lifetime: int
    task_max_deliveries: int
    worker_max_tasks: int | None
    worker_max_mb: float | None
    batch_size: int
    task_time_limit: float | None
    callback_timeout: float
    callback_secret: str = field(repr=False)
    callback_retry_for: int
    callback_lifetime: int
    callback_allow: tuple[str, ...]
    callback_deny: tuple[str, ...]
    callback_loopback: bool
    own_services: tuple[str, ...]
    kubernetes_service_host: str
    stop_timeout: float
    worker_log: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the variables that docker-compose.yml passes; raises SettingError for an invalid value."""
        read = _Reader(environ)
        return cls(
            project_name=read.text("PROJECT_NAME", "project"),
            redis_url=read.text("REDIS_URL", "redis://127.0.0.1:6379/0"),
            response=ResponseMode(
                synchronous=read.choice("RESPONSE_MODE", {"async": False, "sync": True}, "async"),
                timeout=read.number("RESPONSE_TIMEOUT", float, "5", minimum=0),
            ),
            api_threads=read.number("API_THREADS", int, "64", minimum=4),
            api_keys=frozenset(read.words("API_KEYS")),
            shares_model=read.choice("MODEL_SHARING", {"process": False, "fork": True}, "process"),
            body_limit=int(read.number("BODY_LIMIT_MB", float, "10", minimum=0) * 1024 * 1024),
            queue_limit=read.number("QUEUE_LIMIT", int, "10000", minimum=1),
            result_lifetime=read.number("RESULT_LIFETIME", int, "86400", minimum=1),
            task_max_deliveries=read.number("TASK_MAX_DELIVERIES", int, "3", minimum=1),
            worker_max_tasks=read.number("WORKER_MAX_TASKS", int, "0", minimum=0) or None,
            worker_max_mb=read.number("WORKER_MAX_MB", float, "0", minimum=0) or None,
            batch_size=read.number("BATCH_SIZE", int, "32", minimum=1),
            task_time_limit=read.number("TASK_TIME_LIMIT", float, "0", minimum=0) or None,
            callback_timeout=read.number("CALLBACK_TIMEOUT", float, "10", minimum=0.1),
            callback_secret=read.text("CALLBACK_SECRET", ""),
            callback_retry_for=read.number("CALLBACK_RETRY_FOR", int, "86400", minimum=0),
            callback_lifetime=read.number("CALLBACK_LIFETIME", int, "604800", minimum=1),
            callback_allow=read.words("CALLBACK_ALLOW"),
            callback_deny=read.words("CALLBACK_DENY"),
            callback_loopback=read.choice("CALLBACK_LOOPBACK", {"closed": False, "open": True}, "closed"),
            own_services=read.words("OWN_SERVICES"),
            # Kubernetes sets it in each container.
            kubernetes_service_host=read.text("KUBERNETES_SERVICE_HOST", ""),
            stop_timeout=read.number("STOP_TIMEOUT", float, "30", minimum=10),
            worker_log=read.text("WORKER_LOG", "logs/worker.log"),
        )


class _Reader:
    """Typed access to environment variables; an empty one counts as unset."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str) -> str:
        return self._environ.get(name, "").strip() or default

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word for part in self.text(name, "").split(",") if (word := part.strip()))

    def number(self, name: str, kind: Callable[[str], Value], default: str, *, minimum: float) -> Value:
        text = self.text(name, default)
        try:
            value = kind(text)
            in_range = minimum <= float(text) < float("inf")
        except ValueError:
            in_range = False
        if not in_range:
            raise SettingError(f"{name} is {text!r}; it must be a number of {minimum:g} or more")
        return value

    def choice(self, name: str, values: Mapping[str, Value], default: str) -> Value:
        text = self.text(name, default)
        if text not in values:
            raise SettingError(f"{name} is {text!r}; it must be one of {', '.join(values)}")
        return values[text]
