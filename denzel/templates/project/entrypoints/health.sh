#!/usr/bin/env bash
# Exits 0 while a service is healthy: health.sh api|denzel|monitor. Bash alone, because it runs all the time.
set -euo pipefail

answers() { # address path: an HTTP server there answers 200
    exec 3<>"/dev/tcp/127.0.0.1/${1##*:}"
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
    read -r _ status _ <&3
    [ "$status" = 200 ]
}

reports() { # worker: its report in Redis has not expired
    [[ $REDIS_URL =~ ^redis://(:([^@]*)@)?([^:/]+):([0-9]+) ]]
    exec 3<>"/dev/tcp/${BASH_REMATCH[3]}/${BASH_REMATCH[4]}"
    if [ -n "${BASH_REMATCH[2]}" ]; then
        printf 'AUTH %s\r\n' "${BASH_REMATCH[2]}" >&3
        read -r _ <&3
    fi
    printf 'EXISTS denzel:worker:%s\r\n' "$1" >&3
    read -r exists <&3
    [ "${exists%$'\r'}" = :1 ]
}

case "${1:-}" in
api) answers "${API_BIND:-:8000}" /health/live ;;
monitor) answers "${MONITOR_BIND:-:5555}" /healthcheck ;;
denzel) reports "worker@${PROJECT_NAME}" ;;
*)
    echo "usage: health.sh api|denzel|monitor" >&2
    exit 64
    ;;
esac
