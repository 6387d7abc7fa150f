"""billiard's pool of predicting processes, as Celery's worker holds it."""

from __future__ import annotations

from typing import Any

#: Seconds between two looks at the worker's own processes.
CHECK_INTERVAL = 1.0


def maintain_pool(worker: Any) -> None:
    """Put others in the place of processes that died, and let their tasks go."""
    pool = _pool(worker)
    if pool:
        pool.maintain_pool()


def ready_processes(worker: Any) -> set[int]:
    """The ids of the processes that have the model: Celery knows a process once its initialisation is through."""
    pool = _pool(worker)
    return {process.pid for process in list(pool._fileno_to_inq.values())} if pool else set()


def loading_processes(worker: Any) -> set[int]:
    """The ids of the processes that have no model yet, and so no task."""
    return {process.pid for process in pool_processes(worker)} - ready_processes(worker)


def pool_processes(worker: Any) -> list[Any]:
    """The pool's processes, as billiard has them."""
    pool = _pool(worker)
    return [process for process in list(pool._pool) if process.pid is not None] if pool else []


def _pool(worker: Any) -> Any:
    """billiard's pool; None once the worker has stopped it."""
    return worker.pool and worker.pool._pool
