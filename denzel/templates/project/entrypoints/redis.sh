#!/usr/bin/env bash
# Redis. Each change is in its append-only file before it is answered, so that no kill loses it; and on the disk about a
# second later, or with REDIS_FSYNC=always before it is answered too.
set -euo pipefail
shopt -s nullglob
listen="${REDIS_BIND:-*:6379}"
cd "${REDIS_DATA:-/data}"

flush() { # to the disk, what was written to the append-only files
    local files=(appendonly*/* appendonly*.aof)
    case "$OSTYPE" in
    darwin*) sync ;; # That of macOS knows no files.
    *) [ ${#files[@]} -eq 0 ] || sync -d "${files[@]}" ;;
    esac
}

flush_every_second() { # until the standard input ends
    # No line ever comes: `read` waits for a second, or finds that the server is gone, however that came about. Before
    # version 4, the bash of macOS, it says the same of both.
    while read -r -t 1 || [ $? -gt 128 ] || { [ "${BASH_VERSINFO[0]}" -lt 4 ] && kill -0 $$ 2>/dev/null; }; do
        # A file may be gone before it is opened, when Redis has just written its files anew.
        flush 2>/dev/null || flush || true
    done
}

case "${REDIS_FSYNC:-everysec}" in
always) appendfsync=always ;;
everysec)
    # Redis' own everysec puts off the writing while the disk is slow, and answers all the same. Its `no` writes before
    # each answer, and leaves the disk to us. The server holds the other end of the loop's input, so both end together.
    appendfsync=no
    exec 3> >(flush_every_second)
    ;;
*)
    echo "REDIS_FSYNC is $REDIS_FSYNC; it can be everysec or always." >&2
    exit 64
    ;;
esac

# The settings come over the standard input: `ps` shows a command line to everybody. A title of the process would be
# written over its environment, by which the local backend knows what belongs to a project.
exec "${REDIS_SERVER_PROGRAM:-redis-server}" - <<SETTINGS
bind ${listen%:*}
port ${listen##*:}
requirepass ${REDISCLI_AUTH:?is the password of Redis}
appendonly yes
appendfsync $appendfsync
save ""
maxmemory ${REDIS_MEMORY_MB:-0}mb
maxmemory-policy noeviction
set-proc-title no
SETTINGS
