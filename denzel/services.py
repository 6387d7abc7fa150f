"""The four services, their states, and the names and keys that both halves share."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Service(enum.Enum):
    """A service by its name in docker-compose.yml, in the order in which `status` lists them."""

    DENZEL = "denzel"
    MONITOR = "monitor"
    API = "api"
    REDIS = "redis"

    @property
    def carries_requirements(self) -> bool:
        """True when the service runs with the user's requirements, from the project's image."""
        return self is not Service.REDIS


#: The keys of .env in each service's environment, beside its names, its addresses and the password of Redis; as under
#: `environment` in docker-compose.yml.
SETTINGS: Mapping[Service, tuple[str, ...]] = {
    Service.API: (
        *("API_WORKERS", "API_THREADS", "API_KEYS", "RESPONSE_MODE", "RESPONSE_TIMEOUT", "BODY_LIMIT_MB"),
        *("QUEUE_LIMIT", "RESULT_LIFETIME", "CALLBACK_ALLOW", "CALLBACK_DENY"),
    ),
    Service.DENZEL: (
        *("WORKER_CONCURRENCY", "MODEL_SHARING", "WORKER_MAX_TASKS", "WORKER_MAX_MB", "RESULT_LIFETIME", "BATCH_SIZE"),
        *("TASK_MAX_DELIVERIES", "TASK_TIME_LIMIT", "CALLBACK_TIMEOUT", "CALLBACK_SECRET", "CALLBACK_RETRY_FOR"),
        *("CALLBACK_LIFETIME", "CALLBACK_ALLOW", "CALLBACK_DENY", "STOP_TIMEOUT"),
    ),
    Service.MONITOR: ("MONITOR_HOST", "MONITOR_USER", "MONITOR_PASSWORD"),
    Service.REDIS: ("REDIS_MEMORY_MB", "REDIS_FSYNC"),
}

#: Keys of earlier releases that are passed on to a service where .env has them, as the project's own code may be older.
FORMER_SETTINGS: Mapping[Service, tuple[str, ...]] = {Service.DENZEL: ("BATCH_WAIT_MS",)}


def reachable(host: str) -> str:
    """The address at which this machine reaches a service that is published on `host`."""
    return "127.0.0.1" if host == "0.0.0.0" else host


class State(enum.Enum):
    """State of a service or of a worker, in the words that `status` prints."""

    INSTALLING_PIP = "PIP INSTALLING..."
    INSTALLING_OS = "OS COMMANDS..."
    STARTING = "STARTING..."
    LOADING = "LOADING..."
    UP = "UP"
    ERROR = "ERROR"
    DOWN = "DOWN"


@dataclass(frozen=True, kw_only=True)
class ServiceReport:
    """One service: its state, and the port that it is published on, None for none."""

    state: State
    port: int | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """One worker: its name, its state, the cause when that is ERROR and known with what to do about it, and what
    load_model warned of: the first warnings, and the number of others.
    """

    name: str
    state: State
    cause: str = ""
    hint: str = ""
    warnings: tuple[str, ...] = ()
    more_warnings: int = 0


@dataclass(frozen=True, kw_only=True)
class Status:
    """States of a project's services and of its worker at one moment."""

    services: Mapping[Service, ServiceReport]
    worker: WorkerReport

    @property
    def ready(self) -> bool:
        """True when every service is up and the model is loaded."""
        return self.worker.state is State.UP and all(report.state is State.UP for report in self.services.values())


def worker_name(project_name: str) -> str:
    """The name of a project's worker, for Celery and for `status`."""
    return f"worker@{project_name}"


#: Statuses of ended tasks, as in GET /status.
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
TERMINAL_STATES = (SUCCESS, FAILURE, REVOKED)

#: The cause when a process died while loading the model, and nothing more was reported.
DIED_LOADING = "a process died while loading the model"

# Keys of the serving code in Redis that denzel reads or writes too: store/keys.py is their owner on the other side,
# but `unacked`, which is Kombu's hash of the messages that were taken and are not acknowledged.
QUEUE_KEY = "denzel"
UNACKED_KEY = "unacked"
UNDELIVERED_KEY = "denzel:undelivered"
RESPONSE_KEY = "denzel:response"


def loads_key(name: str) -> str:
    """The hash of the hosts on which a worker's main process loads the model itself: LOADING, or DIED after a death.

    Projects of earlier releases write it.
    """
    return f"denzel:loads:{name}"


def worker_key(name: str) -> str:
    """The hash with `state` and `cause` of a running worker."""
    return f"denzel:worker:{name}"
