#!/usr/bin/env bash
# Health check, exit code 0 while a service is healthy: health.sh api|denzel|monitor|redis. Only bash, as it runs often.
# `ready` prints what GET /health/ready answers.
set -euo pipefail

answers() { # address path: succeeds if an HTTP server there answers 200
    local host=${1%:*}
    [ -n "$host" ] && [ "$host" != 0.0.0.0 ] || host=127.0.0.1
    exec 3<>"/dev/tcp/$host/${1##*:}"
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$2" >&3
    read -r _ status _ <&3
    [ "$status" = 200 ]
}

ready() { # prints the body of the api's answer, which has no newline
    local line="" body=""
    answers "${API_BIND:-:8000}" /health/ready || true
    while IFS= read -r line <&3 || [ -n "$line" ]; do body=$line; done
    printf '%s\n' "$body"
}

connect() { # opens a connection to Redis as file 3
    [[ $REDIS_URL =~ ^redis://(:([^@]*)@)?([^:/]+):([0-9]+) ]]
    exec 3<>"/dev/tcp/${BASH_REMATCH[3]}/${BASH_REMATCH[4]}"
    if [ -n "${BASH_REMATCH[2]}" ]; then
        printf 'AUTH %s\r\n' "${BASH_REMATCH[2]}" >&3
        read -r _ <&3
    fi
}

redis() { # command answer: succeeds if Redis gives this answer
    connect
    printf '%s\r\n' "$1" >&3
    read -r answer <&3
    [ "${answer%$'\r'}" = "$2" ]
}

script() { # name words: runs one of store/lua/workers/, with these words as number of keys, keys and arguments
    local folder=app/serving/store/lua LC_ALL=C word
    set -- EVAL "$(printf '#!lua flags=allow-oom\n' && cat "$folder/include/common.lua" \
        "$folder/include/worker_state.lua" && tail -n +2 "$folder/workers/$1.lua")" "${@:2}"
    connect
    printf '*%d\r\n' $# >&3
    for word; do printf '$%d\r\n%s\r\n' ${#word} "$word" >&3; done
    read -r answer <&3
    [ "${answer:0:1}" != - ]
}

case "${1:-}" in
api) answers "${API_BIND:-:8000}" /health/live ;;
monitor) answers "${MONITOR_BIND:-:5555}" /healthcheck ;;
# The worker's report expires unless it is renewed.
denzel) redis "EXISTS denzel:worker:worker@${PROJECT_NAME}" :1 ;;
redis) redis PING +PONG ;;
ready) ready ;;
# Orders of the supervisor: the part of this host is renewed for another 20 s, or removed.
touch) script touch 1 "denzel:worker:worker@${PROJECT_NAME}" 20 "$(uname -n)" ;;
forget)
    script deregister 2 "denzel:worker:worker@${PROJECT_NAME}" denzel:workers "worker@${PROJECT_NAME}" "$(uname -n)"
    ;;
*)
    echo "usage: health.sh api|denzel|monitor|redis" >&2
    exit 64
    ;;
esac
