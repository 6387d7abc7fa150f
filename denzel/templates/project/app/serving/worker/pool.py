"""Celery's pool of processes: all use of its internals and of billiard's (Celery 5.7.0, billiard 4.3.2)."""

from __future__ import annotations

from typing import Any

from billiard import pool as billiard_pool


def accept_early_deaths(worker: Any) -> None:
    """Let the worker start although no process survives its first second: each that dies is replaced."""
    worker.pool.did_start_ok = lambda: True


def replace_dead_processes(worker: Any) -> None:
    """Replace processes that died, and report their jobs as lost."""
    pool = _pool(worker)
    if pool:
        pool.maintain_pool()


def ready_processes(worker: Any) -> set[int]:
    """The ids of the processes that have the model: a process is known here once its initialisation has returned."""
    pool = _pool(worker)
    return {process.pid for process in list(pool._fileno_to_inq.values())} if pool else set()


def loading_processes(worker: Any) -> set[int]:
    """The ids of the processes that have no model yet, and so no task."""
    return {process.pid for process in pool_processes(worker)} - ready_processes(worker)


def pool_processes(worker: Any) -> list[Any]:
    """billiard's objects of the pool's processes."""
    pool = _pool(worker)
    return [process for process in list(pool._pool) if process.pid is not None] if pool else []


def has_dropped(worker: Any, job: Any) -> bool:
    """True when the pool has discarded a job that no process started, as it does when a connection breaks."""
    pool = _pool(worker)
    return bool(pool) and job._job not in pool._cache


def limit_exit_wait(seconds: float) -> None:
    """Let this pool process end within so many seconds of being asked to: its tasks' results are in Redis by then.

    A worker that stops does not always count what it has read, and billiard would wait half a minute for that.
    """
    interval = billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL
    billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = round(seconds / interval)


def _pool(worker: Any) -> Any:
    """billiard's pool; None once the worker has stopped it."""
    return worker.pool and worker.pool._pool
