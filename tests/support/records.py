"""The records of tasks, as tests read them."""

from __future__ import annotations

from typing import Any

from app.serving.store.tasks import TaskRecord, TaskStore


def record_of(records: TaskStore, task_id: str = "the-id") -> TaskRecord:
    """The record of a task, which must be there."""
    record = records.find(task_id)
    assert record is not None
    return record


def failed(kind: str, message: str) -> dict[str, Any]:
    """The stored failure of an exception of this kind."""
    return {"args": [message], "error": {"type": kind, "message": message}}
