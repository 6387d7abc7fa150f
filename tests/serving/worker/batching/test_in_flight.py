"""in_flight.py: tasks of a batch, as Celery's inspect shows them."""

from __future__ import annotations

from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.worker.batching.in_flight import Batch, TaskView


def test_celery_is_shown_a_task_and_can_terminate_it() -> None:
    cancelled: list[str] = []
    batch = Batch(3, None, cancelled.append)
    batch.tasks = [QueuedTask("a", "", "[1]", 900.0), QueuedTask("b", "", "[2]", 901.0)]
    view = TaskView(batch.tasks[1], batch, cancelled.append)
    assert view.info()["worker_pid"] is None
    batch.pid = 77
    shown = view.info()
    assert (shown["id"], shown["name"], shown["args"], shown["worker_pid"]) == ("b", TASK_NAME, "[2]", 77)
    view.terminate(pool=None)
    assert cancelled == ["b"]
    assert [batch.index_of(task_id) for task_id in ("a", "b")] == [0, 1]
