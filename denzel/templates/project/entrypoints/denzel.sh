#!/usr/bin/env bash
# denzel service, the worker: Celery running app/tasks.py in one process per core, or in WORKER_CONCURRENCY processes.
set -euo pipefail
# The report of a worker that was killed must not count for this one; where Redis is away, it expires.
entrypoints/health.sh forget 2>/dev/null || true
exec python -m app.serving.worker \
    --hostname "worker@${PROJECT_NAME}" \
    ${WORKER_CONCURRENCY:+--concurrency "${WORKER_CONCURRENCY}"}
