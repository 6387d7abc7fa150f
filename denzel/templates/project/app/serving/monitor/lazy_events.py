"""Lazy processing of Celery's events for the dashboard.

Flower sorts, counts and indexes each event when it arrives, which costs 0.1 ms for each task: as much as a fast
prediction. Here events are queued, and processed with the next request of the dashboard or of its metrics.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from flower.events import Events, EventsState

#: Events that alone describe a whole task. They are queued, and only the latest are kept, as Flower does with tasks.
FINAL = frozenset({"task-succeeded", "task-failed"})

#: The event of which Flower's page counts a worker's processed tasks; a final one stands for it, too.
RECEIVED = "task-received"

#: Events after which those that are too many are counted, together.
MAX_COUNTED_AT_ONCE = 1000


class LazyEvents(Events):  # type: ignore[misc]
    """Flower's events: a thread of their own adds them to a queue, and Flower's event loop takes them from it."""

    def __init__(self, *arguments: Any, max_tasks_in_memory: int, **options: Any) -> None:
        self._state: Any = None
        self._unread: deque[dict[str, Any]] = deque()
        self._max_tasks = max_tasks_in_memory
        super().__init__(*arguments, max_tasks_in_memory=max_tasks_in_memory, **options)

    @property
    def state(self) -> Any:
        """The state of tasks and workers, with all events processed."""
        self.read()
        return self._state

    @state.setter
    def state(self, state: EventsState) -> None:
        self._state = state

    def read(self) -> None:
        """Process all queued events."""
        while self._unread:
            event = self._unread.popleft()
            self._state.event(event)
            self._state.counter[event["hostname"]][RECEIVED] += 1

    def on_event(self, event: dict[str, Any]) -> None:
        """Queue a final event; process any other at once."""
        if event["type"] not in FINAL:
            # Celery's state merges events that come out of order.
            self.io_loop.add_callback(self._state.event, event)
            return
        self._unread.append(event)
        if len(self._unread) > self._max_tasks and len(self._unread) % MAX_COUNTED_AT_ONCE == 0:
            self.io_loop.add_callback(self._count_oldest)

    def _count_oldest(self) -> None:
        """Count the events that Flower would drop unseen, as it keeps only so many tasks."""
        self._count([self._unread.popleft() for _ in range(len(self._unread) - self._max_tasks)])

    def _count(self, events: Iterable[dict[str, Any]]) -> None:
        """Add events of tasks that are not shown any more to the metrics."""
        kinds = Counter((event["hostname"], event["type"], event.get("name", "")) for event in events)
        for (worker, kind, name), count in kinds.items():
            self._state.counter[worker][kind] += count
            self._state.counter[worker][RECEIVED] += count
            self._state.metrics.events.labels(worker, kind, name).inc(count)
        for event in events:
            if event.get("runtime"):
                self._state.metrics.runtime.labels(event["hostname"], event.get("name", "")).observe(event["runtime"])
