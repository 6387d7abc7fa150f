#!/usr/bin/env bash
# The api: gunicorn serving app/wsgi.py.
set -euo pipefail
exec gunicorn app.wsgi:app \
    --worker-class app.server.Worker \
    --workers "${API_WORKERS:-1}" \
    --threads "${API_THREADS:-64}" \
    --bind "${API_BIND:-0.0.0.0:8000}" \
    --timeout 120 \
    --graceful-timeout 20 \
    --keep-alive 30 \
    --worker-tmp-dir /dev/shm \
    --name "${PROJECT_NAME}-api"
