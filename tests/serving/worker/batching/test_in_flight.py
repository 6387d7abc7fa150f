"""in_flight.py: what Celery is shown of the tasks in a parcel."""

from __future__ import annotations

from app.serving.store.messages import TASK_NAME, QueuedTask
from app.serving.worker.batching.in_flight import Batch, TaskView


def test_celery_is_shown_a_task_and_can_end_it() -> None:
    ended: list[str] = []
    parcel = Batch(3, None, ended.append)
    parcel.items = [QueuedTask("a", "", "[1]", 900.0), QueuedTask("b", "", "[2]", 901.0)]
    request = TaskView(parcel.items[1], parcel, ended.append)
    assert request.info()["worker_pid"] is None
    parcel.pid = 77
    shown = request.info()
    assert (shown["id"], shown["name"], shown["args"], shown["worker_pid"]) == ("b", TASK_NAME, "[2]", 77)
    request.terminate(pool=None)
    assert ended == ["b"]
    assert [parcel.place_of(task_id) for task_id in ("a", "b")] == [0, 1]
