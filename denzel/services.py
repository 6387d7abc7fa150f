"""The four services, and the words for what they and their workers are."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Service(enum.Enum):
    """A service, by the name it has in docker-compose.yml; in the order in which `status` lists them."""

    DENZEL = "denzel"
    MONITOR = "monitor"
    API = "api"
    REDIS = "redis"

    @property
    def carries_requirements(self) -> bool:
        """Whether the service runs from the project's image, with the user's requirements in it."""
        return self is not Service.REDIS


#: The settings of .env that each service is given, beside names, addresses and the password of Redis.
SETTINGS: Mapping[Service, tuple[str, ...]] = {
    Service.API: (
        "API_WORKERS",
        "API_THREADS",
        "API_KEYS",
        "RESPONSE_MODE",
        "RESPONSE_TIMEOUT",
        "BODY_LIMIT_MB",
        "QUEUE_LIMIT",
        "RESULT_LIFETIME",
        "CALLBACK_ALLOW",
        "CALLBACK_DENY",
    ),
    Service.DENZEL: (
        "WORKER_CONCURRENCY",
        "MODEL_SHARING",
        "RESULT_LIFETIME",
        "BATCH_SIZE",
        "BATCH_WAIT_MS",
        "TASK_MAX_DELIVERIES",
        "TASK_TIME_LIMIT",
        "CALLBACK_TIMEOUT",
        "CALLBACK_SECRET",
        "CALLBACK_RETRY_FOR",
        "CALLBACK_LIFETIME",
        "CALLBACK_ALLOW",
        "CALLBACK_DENY",
        "STOP_TIMEOUT",
    ),
    Service.MONITOR: ("MONITOR_HOST", "MONITOR_USER", "MONITOR_PASSWORD"),
    Service.REDIS: ("REDIS_MEMORY_MB", "REDIS_FSYNC"),
}


class State(enum.Enum):
    """What a service or a worker is, in the words that `status` prints."""

    INSTALLING_PIP = "PIP INSTALLING..."
    INSTALLING_OS = "OS COMMANDS..."
    STARTING = "STARTING..."
    LOADING = "LOADING..."
    UP = "UP"
    ERROR = "ERROR"
    DOWN = "DOWN"


@dataclass(frozen=True, kw_only=True)
class ServiceReport:
    """One service: its state, and the port it is published on, if any."""

    state: State
    port: int | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """One worker: its name, its state, and the cause when that is ERROR."""

    name: str
    state: State
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A project at one moment."""

    services: Mapping[Service, ServiceReport]
    worker: WorkerReport

    @property
    def ready(self) -> bool:
        """Whether every service is up and the model is loaded."""
        return self.worker.state is State.UP and all(report.state is State.UP for report in self.services.values())


def worker_name(project_name: str) -> str:
    """The name of the project's worker, for Celery and for `status`."""
    return f"worker@{project_name}"


#: The words of GET /status for a task that has ended.
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
ENDED = (SUCCESS, FAILURE, REVOKED)

#: The cause when a process died while loading the model, and nobody knows more.
DIED_LOADING = "a process died while loading the model"

# What the serving code stores in Redis, as far as this side reads or writes it; store/keys.py is the other owner.
QUEUE_KEY = "denzel"
UNACKED_KEY = "unacked"
UNDELIVERED_KEY = "denzel:undelivered"
RESPONSE_KEY = "denzel:response"


def loads_key(name: str) -> str:
    """The hash of the hosts on which a worker's main process loads the model itself: LOADING, or DIED before."""
    return f"denzel:loads:{name}"


def worker_key(name: str) -> str:
    """The hash that holds `state` and `cause` of a worker while it lives."""
    return f"denzel:worker:{name}"
