#!/usr/bin/env bash
# api service: gunicorn serving app/serving/api/asgi.py.
set -euo pipefail
# gunicorn's heartbeat is a file; where there is a folder in memory for it, it never waits for a disk.
heartbeats=/dev/shm
[ -d "$heartbeats" ] || heartbeats=${TMPDIR:-/tmp}
exec gunicorn app.serving.api.asgi:app \
    --worker-class app.serving.api.http.worker.Worker \
    --workers "${API_WORKERS:-1}" \
    --bind "${API_BIND:-0.0.0.0:8000}" \
    --timeout 120 \
    --graceful-timeout 20 \
    --keep-alive 30 \
    --no-control-socket \
    --worker-tmp-dir "$heartbeats" \
    --name "${PROJECT_NAME}-api"
