"""The records of tasks, as tests read them."""

from __future__ import annotations

from app.serving.store.tasks import TaskRecord, TaskStore


def record_of(records: TaskStore, task_id: str = "the-id") -> TaskRecord:
    """The record of a task, which must be there."""
    record = records.find(task_id)
    assert record is not None
    return record
