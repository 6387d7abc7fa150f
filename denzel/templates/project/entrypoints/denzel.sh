#!/usr/bin/env bash
# denzel service: the worker, in one process per core or in WORKER_CONCURRENCY processes, and the sender of callbacks,
# below a supervisor.
set -euo pipefail
exec python -m app.serving.supervisor ${WORKER_CONCURRENCY:+--concurrency "${WORKER_CONCURRENCY}"}
