#!/usr/bin/env bash
# redis service. Each change is written to the append-only file before it is answered, so that a kill loses none; and
# flushed to the disk about a second later, or with REDIS_FSYNC=always also before it is answered.
set -euo pipefail
shopt -s nullglob
listen="${REDIS_BIND:-*:6379}"
cd "${REDIS_DATA:-/data}"

flush() { # the append-only files to the disk
    local files=(appendonly*/* appendonly*.aof)
    case "$OSTYPE" in
    darwin*) sync ;; # It takes no files on macOS.
    *) [ ${#files[@]} -eq 0 ] || sync -d "${files[@]}" ;;
    esac
}

flush_every_second() { # until the end of the standard input
    # No line ever comes: `read` times out after a second, or finds that the server is gone, for whatever reason. Before
    # bash 4, as on macOS, its exit code is the same for both.
    while read -r -t 1 || [ $? -gt 128 ] || { [ "${BASH_VERSINFO[0]}" -lt 4 ] && kill -0 $$ 2>/dev/null; }; do
        # A file may be gone before it is opened, when Redis has just rewritten its files.
        flush 2>/dev/null || flush || true
    done
}

case "${REDIS_FSYNC:-everysec}" in
always) appendfsync=always ;;
everysec)
    # Redis' own everysec delays the write while the disk is slow, and answers all the same. Its `no` writes before each
    # answer, and leaves the flush to us. The server holds the other end of the loop's input, so both end together.
    appendfsync=no
    exec 3> >(flush_every_second)
    ;;
*)
    echo "REDIS_FSYNC is $REDIS_FSYNC; it can be everysec or always." >&2
    exit 64
    ;;
esac

# The settings come over the standard input, as `ps` shows command lines to everybody. A process title would overwrite
# the environment, by which the local backend finds the processes of a project.
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
