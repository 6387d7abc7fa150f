"""What the serving code is told from outside, read from environment variables once and frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")


class SettingError(ValueError):
    """An environment variable holds something it cannot hold; the message names it, its value and what is allowed."""


@dataclass(frozen=True, kw_only=True)
class ResponseMode:
    """How POST /predict answers: with the task id at once, or with the result after waiting up to `timeout` seconds."""

    synchronous: bool
    timeout: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one deployment. Times are seconds, sizes bytes."""

    project_name: str
    redis_url: str
    response: ResponseMode
    api_threads: int
    api_keys: frozenset[str]
    body_limit: int
    queue_limit: int
    result_lifetime: int
    callback_timeout: float
    stop_timeout: float
    worker_log: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the variables that docker-compose.yml passes; raises SettingError for a value that cannot be."""
        read = _Reader(environ)
        return cls(
            project_name=read.text("PROJECT_NAME", "project"),
            redis_url=read.text("REDIS_URL", "redis://127.0.0.1:6379/0"),
            response=ResponseMode(
                synchronous=read.choice("RESPONSE_MODE", {"async": False, "sync": True}, "async"),
                timeout=read.number("RESPONSE_TIMEOUT", float, "5", least=0),
            ),
            api_threads=read.number("API_THREADS", int, "64", least=4),
            api_keys=frozenset(key for part in read.text("API_KEYS", "").split(",") if (key := part.strip())),
            body_limit=int(read.number("BODY_LIMIT_MB", float, "10", least=0) * 1024 * 1024),
            queue_limit=read.number("QUEUE_LIMIT", int, "10000", least=1),
            result_lifetime=read.number("RESULT_LIFETIME", int, "86400", least=1),
            callback_timeout=read.number("CALLBACK_TIMEOUT", float, "10", least=0.1),
            stop_timeout=read.number("STOP_TIMEOUT", float, "30", least=10),
            worker_log=read.text("WORKER_LOG", "logs/worker.log"),
        )


class _Reader:
    """Environment variables, typed at the door; an empty variable counts as unset."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str) -> str:
        return self._environ.get(name, "").strip() or default

    def number(self, name: str, kind: Callable[[str], Value], default: str, *, least: float) -> Value:
        text = self.text(name, default)
        try:
            value = kind(text)
            in_range = least <= float(text) < float("inf")
        except ValueError:
            in_range = False
        if not in_range:
            raise SettingError(f"{name} is {text!r}; it must be a number of {least:g} or more")
        return value

    def choice(self, name: str, values: Mapping[str, Value], default: str) -> Value:
        text = self.text(name, default)
        if text not in values:
            raise SettingError(f"{name} is {text!r}; it must be one of {', '.join(values)}")
        return values[text]
