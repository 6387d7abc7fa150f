"""A process of the worker, with a pipeline of the test's own and a real Redis."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from app.serving.running_task import set_reporter
from app.serving.settings import Settings
from app.serving.store.claims import ClaimLimits, Claims
from app.serving.store.connection import connect
from app.serving.store.reports import ReportStore
from app.serving.store.tasks import TaskStore
from app.serving.worker.batching.events import TaskEvents
from app.serving.worker.batching.place import Place
from app.serving.worker.batching.report_writer import ReportWriter
from app.serving.worker.batching.result_buffer import ResultBuffer
from app.serving.worker.batching.runner import BatchRunner
from app.serving.worker.batching.scoreboard import Slot
from app.serving.worker.batching.sizing import AdaptiveBatchSize
from app.serving.worker.celery_app import configuration
from app.serving.worker.model.predictor import Predictor
from app.serving.worker.process import TaskLoop

LIMITS = ClaimLimits(deliveries=3, ttl=60)


def predictor(**functions: Any) -> Predictor:
    """A pipeline that is loaded, with these functions: predict or predict_batch, and process if it has one."""
    pipeline = SimpleNamespace(**{"load_model": lambda: "model", "process": lambda model, one: one, **functions})
    loaded = Predictor(lambda: pipeline)
    loaded.load(pytest.fail, sleep=pytest.fail)
    return loaded


def make_loop(
    url: str,
    celery_app: Celery,
    *,
    owner: str,
    slot: Slot,
    place: Place,
    quick: bool = False,
    batch_size: int = 4,
    deliveries: int = 3,
    may_go_on: Callable[[], bool] = lambda: True,
    max_tasks: int | None = None,
    **functions: Any,
) -> TaskLoop:
    """The loop of a process with this pipeline; a `quick` one has learned that its tasks are quick."""
    model = predictor(**functions)
    size = AdaptiveBatchSize(batch_size=batch_size, deliveries=deliveries, predicts_batches=model.predicts_batches)
    if quick:
        size.observe(1, 0.0001)
    results = ResultBuffer(TaskStore(connect(url)), ttl=60)
    claims = Claims(connect(url), ClaimLimits(deliveries=deliveries, ttl=60), owner)
    reports = ReportWriter(ReportStore(connect(url)), lambda: claims.holder)
    set_reporter(reports)
    return TaskLoop(
        claims,
        results,
        BatchRunner(model, results, slot, flush_reports=reports.flush),
        size,
        TaskEvents(celery_app, "worker@iris"),
        slot=slot,
        place=place,
        processes=1,
        may_go_on=may_go_on,
        max_tasks=max_tasks,
    )


def process_of(url: str, **options: Any) -> Callable[..., None]:
    """The function that a process of Processes runs: the loop above, until SIGTERM."""

    def run(owner: str, slot: Slot, place: Place) -> None:
        celery_app = Celery("denzel", set_as_current=False)
        celery_app.conf.update(configuration(Settings.from_environment({"REDIS_URL": url})))
        loop = make_loop(url, celery_app, owner=owner, slot=slot, place=place, **options)
        signal.signal(signal.SIGTERM, lambda *_: loop.stop())
        slot.wait()
        loop.run()

    return run
