"""Shared fixtures of the serving code's tests: settings as in a deployment, and Celery as in the worker."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from support.asgi_client import LOOP
from support.deployment import Deployment
from support.redis_server import redis_server

from app.serving.queue.client import TaskQueue
from app.serving.settings import Settings
from app.serving.store.connection import connect
from app.serving.store.messages import TASK_NAME
from app.serving.store.tasks import TaskStore
from app.serving.worker.celery_app import configuration

ReadSettings = Callable[..., Settings]


@pytest.fixture
def read_settings(redis_url: str) -> ReadSettings:
    """The settings of a deployment on the test server, with these variables set: read_settings(QUEUE_LIMIT="2")."""
    return lambda **environ: Settings.from_environment({"REDIS_URL": redis_url, **environ})


@pytest.fixture
def broker(redis: Redis, redis_url: str) -> Iterator[Redis]:
    """The connections of the serving code, to an empty server; by their name a test can tell them from others."""
    with connect(f"{redis_url}?client_name={uuid.uuid4()}") as client:
        yield client


@pytest.fixture
def records(broker: Redis) -> TaskStore:
    return TaskStore(broker)


@pytest.fixture
def open_queue(broker: Redis, read_settings: ReadSettings) -> Iterator[Callable[..., TaskQueue]]:
    """A TaskQueue on the test server with these settings: open_queue(QUEUE_LIMIT="2")."""
    opened: list[TaskQueue] = []

    def open_one(**environ: str) -> TaskQueue:
        opened.append(TaskQueue(broker, read_settings(**environ)))
        return opened[-1]

    yield open_one
    # In a deployment the connections live as long as their process; here they must leave the next test alone.
    for queue in opened:
        LOOP.call(queue.close)


@pytest.fixture
def away() -> Iterator[Redis]:
    """Connections to a Redis that is not there."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        with connect(f"redis://127.0.0.1:{reserved.getsockname()[1]}/0") as client:
            yield client


@pytest.fixture
def memory_full(redis: Redis) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with memory_full():` the server is beyond its memory limit."""

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        redis.config_set("maxmemory", 1)
        try:
            yield
        finally:
            redis.config_set("maxmemory", 0)

    return full


@pytest.fixture
def read_only(redis: Redis) -> Iterator[None]:
    """The server takes no writes: it is the replica of one that is not there."""
    redis.replicaof("127.0.0.1", 1)
    yield
    redis.replicaof("NO", "ONE")


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Redis]:
    """Connections to a Redis that has just started and loads its data, for 20 s."""
    with redis_server(tmp_path) as url, connect(url) as client:
        client.mset({str(number): "x" * 2000 for number in range(400)})
        client.config_set("rdbcompression", "no")
        client.save()
    # It listens to clients every 1024 bytes of what it loads.
    slowly = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
    with redis_server(tmp_path, *slowly) as url, connect(url) as client:
        yield client


@pytest.fixture
def make_celery(redis: Redis, read_settings: ReadSettings) -> Iterator[Callable[[Callable[..., Any]], Any]]:
    """Celery with the worker's configuration, and this function as its one task: returns the task."""
    apps = []

    def make(function: Callable[..., Any]) -> Any:
        celery_app = Celery("denzel", set_as_current=False)
        celery_app.conf.update(configuration(read_settings()))
        apps.append(celery_app)

        @celery_app.task(name=TASK_NAME, shared=False)
        def invoke_predict(json_data: Any) -> Any:
            return function(json_data)

        return invoke_predict

    yield make
    for celery_app in apps:
        celery_app.close()


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Deployment]]:
    """Makes projects of which nothing runs yet, and nothing any more afterwards."""
    made: list[Deployment] = []

    def make() -> Deployment:
        made.append(Deployment(tmp_path_factory.mktemp("deployment")))
        return made[-1]

    yield make
    for deployment in made:
        deployment.kill_all()


@pytest.fixture(scope="module")
def shared(deploy: Callable[[], Deployment]) -> Deployment:
    """Three services that are up, for all tests of a module that leave them so."""
    deployment = deploy()
    deployment.launch("denzel", "api", "monitor")
    return deployment


@pytest.fixture
def single(deploy: Callable[[], Deployment]) -> Iterator[Deployment]:
    """A project for one test, of which nothing runs yet."""
    deployment = deploy()
    yield deployment
    deployment.kill_all()
