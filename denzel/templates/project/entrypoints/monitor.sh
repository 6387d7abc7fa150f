#!/usr/bin/env bash
# monitor service, the dashboard: Flower, with a password unless it is published to this machine alone.
set -euo pipefail
case "${MONITOR_HOST:-127.0.0.1}" in
127.* | ::1 | localhost) ;;
*) export FLOWER_BASIC_AUTH="${MONITOR_USER:?}:${MONITOR_PASSWORD:?set MONITOR_PASSWORD in .env}" ;;
esac
bind="${MONITOR_BIND:-0.0.0.0:5555}"
# The services that answer requests have priority.
exec nice -n 10 python -m app.serving.monitor \
    --address="${bind%:*}" \
    --port="${bind##*:}" \
    --max-tasks=10000 \
    --tasks-columns=name,uuid,state,args,result,received,started,runtime,worker \
    --persistent=False
