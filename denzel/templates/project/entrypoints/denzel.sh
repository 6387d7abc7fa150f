#!/usr/bin/env bash
# The worker: Celery running app/tasks.py in one process per core, or in WORKER_CONCURRENCY processes.
set -euo pipefail
# SIGTERM lets running predictions end until STOP_TIMEOUT is nearly over, then hands them back to the queue.
export REMAP_SIGTERM=SIGQUIT
exec celery --app app.tasks worker \
    --hostname "worker@${PROJECT_NAME}" \
    ${WORKER_CONCURRENCY:+--concurrency "${WORKER_CONCURRENCY}"} \
    --loglevel INFO \
    --without-gossip \
    --without-mingle
