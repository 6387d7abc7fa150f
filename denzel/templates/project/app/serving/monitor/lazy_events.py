"""What the dashboard hears of tasks, kept unread until somebody looks.

Flower sorts, counts and indexes each event when it comes, which costs 0.1 ms for each task: as much as predicting it.
Here an event waits; with the next look at the dashboard, or at its metrics, all that wait are read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from functools import partial
from typing import Any

from flower.events import Events, EventsState

#: Events that say of a task all there is to say. Of more tasks than Flower keeps, only the latest would be shown.
FINAL = frozenset({"task-succeeded", "task-failed"})

#: How many are counted together when there are too many.
MAX_COUNTED_AT_ONCE = 1000


class LazyEvents(Events):  # type: ignore[misc]
    """Flower's events. They are heard in a thread of their own, and read in Flower's event loop."""

    def __init__(self, *arguments: Any, max_tasks_in_memory: int, **options: Any) -> None:
        self._state: Any = None
        self._unread: deque[dict[str, Any]] = deque()
        self._most = max_tasks_in_memory
        super().__init__(*arguments, max_tasks_in_memory=max_tasks_in_memory, **options)

    @property
    def state(self) -> Any:
        """What is known of tasks and workers, with all events read."""
        self.read()
        return self._state

    @state.setter
    def state(self, state: EventsState) -> None:
        self._state = state

    def read(self) -> None:
        """Read all events that wait."""
        while self._unread:
            self._state.event(self._unread.popleft())

    def on_event(self, event: dict[str, Any]) -> None:
        """An event was heard."""
        if event["type"] not in FINAL:
            # Celery's state merges what comes late.
            self.io_loop.add_callback(self._state.event, event)
            return
        self._unread.append(event)
        if len(self._unread) >= self._most + MAX_COUNTED_AT_ONCE:
            # Flower keeps that many tasks, so these would be gone before anybody saw them.
            oldest = [self._unread.popleft() for _ in range(MAX_COUNTED_AT_ONCE)]
            self.io_loop.add_callback(partial(self._count, oldest))

    def _count(self, events: Iterable[dict[str, Any]]) -> None:
        """What the metrics say of tasks that are not shown any more."""
        kinds = Counter((event["hostname"], event["type"], event.get("name", "")) for event in events)
        for (worker, kind, name), count in kinds.items():
            self._state.counter[worker][kind] += count
            self._state.metrics.events.labels(worker, kind, name).inc(count)
        for event in events:
            if event.get("runtime"):
                self._state.metrics.runtime.labels(event["hostname"], event.get("name", "")).observe(event["runtime"])
