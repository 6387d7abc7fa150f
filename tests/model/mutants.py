"""Faults of one line each in the Lua scripts, all of which the model test must catch: `make mutants` runs them."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from model.machine import run
from model.virtual_time import Mutant, virtual_time
from redis import Redis
from redis.exceptions import ResponseError
from support.redis_server import redis_server

#: Most need the first of them only.
SEEDS = range(40)


def _in(file: str, *faults: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(name, file, old, new) for name, old, new in faults]


CLAIMS = [
    *_in(
        "claims/take",
        ("a delivery is not counted", "take(task_id, message, delivered + 1, record[3])",
         "take(task_id, message, delivered, record[3])"),
        ("a suspect joins a batch", "if delivered > 0 and #ids > 0 then", "if false then"),
        ("a suspect is followed by a batch", "limit = delivered > 0 and 0 or limit - 1", "limit = limit - 1"),
        ("a claimed task keeps its position", "in_bulk('ZREM', WAITING, ids)", ""),
        ("a claim begins without a lease", "redis.call('ZADD', LEASES, time, (owner_of(holder)))", ""),
        ("a cancelled task runs",
         "elseif status == 'REVOKED' then",
         "elseif status == 'REVOKED' and take(task_id, message, delivered + 1, record[3]) then"),
        ("a suspect loses its turn", "redis.call('RPUSH', QUEUE, message)", "redis.call('LPUSH', QUEUE, message)"),
        ("a suspect is dropped where a batch ends", "redis.call('RPUSH', QUEUE, message)", ""),
        ("a claim has no owner", "in_bulk('HSET', OWNERS, holders)", ""),
        ("ends that come with a take are not announced", "announce_completions()", ""),
        ("ends that come with a take are not stored", "complete_tasks(ARGV, 5, ARGV[4])", ""),
        ("no process leaves some to the others", "if sharers > 0 then", "if false then"),
    ),
    *_in(
        "claims/renew",
        ("a dead process of this host keeps its claims", "if string.sub(owner, 1, #host) == host then", "if false then"),
        ("another host's claim is requeued", "if string.sub(owner, 1, #host) == host then", "if true then"),
        ("no grace after a gap", "if time - last > lease / 2 or time < last then", "if false then"),
        ("grace without a gap", "if time - last > lease / 2 or time < last then", "if true then"),
        ("a lease is never over", "return time - tonumber(renewed) > lease", "return false"),
        ("a lease is half as long", "return time - tonumber(renewed) > lease", "return time - renewed > lease / 2"),
        ("a living owner's lease is not renewed", "if living[owner] then", "if living[owner] and time < 0 then"),
        ("the search is not noted", "redis.call('SET', LAST_RECLAIM, time)", ""),
        ("what an earlier epoch claimed is never run", "if epoch < living[owner] then", "if false then"),
        ("this epoch's claims are requeued", "if epoch < living[owner] then", "if epoch <= living[owner] then"),
        ("a lost answer counts as a death", "lost[#lost + 1] = claims[i]",
         "lost[#lost + 1], died[claims[i]] = claims[i], true"),
        ("a death is not counted", "lost[#lost + 1], died[claims[i]] = claims[i], true", "lost[#lost + 1] = claims[i]"),
        ("a process is not told what was cancelled", "if redis.call('HGET', TASK .. ARGV[i], 'status') == 'REVOKED' then",
         "if false then"),
        ("dead letters are not announced", "announce_completions()", ""),
    ),
    *_in(
        "claims/requeue",
        ("a claim is requeued that has passed to another",
         "if owner_of(redis.call('HGET', OWNERS, ARGV[i]) or '') == ARGV[1] then", "if true then"),
        ("each requeue counts as a death", "ids[#ids + 1], died[ARGV[i]] = ARGV[i], ARGV[i + 1] == 'died'",
         "ids[#ids + 1], died[ARGV[i]] = ARGV[i], true"),
    ),
    *_in(
        "claims/requeue_all",
        ("who stops requeues what others have", "if owner_of(claims[i + 1]) == ARGV[1] then", "if true then"),
        ("who stops keeps a lease", "redis.call('ZREM', LEASES, ARGV[1])", ""),
        ("a process that died of a task is not noted", "died[ARGV[i]] = true", ""),
    ),
    *_in(
        "claims/reject",
        ("another's claim is rejected", "if owner_of(redis.call('HGET', OWNERS, task_id) or '') ~= ARGV[1] then",
         "if not redis.call('HGET', OWNERS, task_id) then"),
        ("a rejected message does not end", "complete_tasks({task_id, 'FAILURE', cjson.encode({args = {reason}})}, 1, ARGV[4])",
         "release_claims({task_id})"),
    ),
    *_in(
        "include/requeue",
        ("a requeued claim is not released", "release_claims({task_id})", ""),
        ("a requeue without a death is counted", "local deliveries = redis.call('HINCRBY', task, 'deliveries', died and 0 or -1)",
         "local deliveries = redis.call('HINCRBY', task, 'deliveries', 0)"),
        ("one delivery too many", "if deliveries >= max_deliveries then", "if deliveries > max_deliveries then"),
        ("a requeued task has no position",
         "redis.call('ZADD', WAITING, redis.call('HGET', task, 'place') or 0, task_id)", ""),
        ("a requeued task is last", "redis.call('RPUSH', QUEUE, message)", "redis.call('LPUSH', QUEUE, message)"),
        ("requeued tasks change their order", "table.sort(ids, function(one, other) return places[one] > places[other] end)",
         "table.sort(ids, function(one, other) return places[one] < places[other] end)"),
        ("a requeued task counts as running", "redis.call('HSET', task, 'status', 'PENDING', 'since', now())", ""),
        ("a dead letter is not kept", "dead_letter(task_id, message, deliveries, reason)", ""),
    ),
    *_in(
        "include/owners",
        ("an epoch is not read", "return owner or holder, tonumber(epoch or 0)", "return owner or holder, 0"),
    ),
]  # fmt: skip

TASKS = [
    *_in(
        "include/completion",
        ("the second end stands", "if before[1] then", "if false then"),
        ("a claim is not released", "release_claims(ids)", ""),
        ("a claim is half released", "in_bulk('HDEL', OWNERS, ids)", ""),
        ("an ended task has a position", "in_bulk('ZREM', WAITING, ids)", ""),
        ("a result is kept for ever", "expire(task, before[4], ttl)", ""),
        ("the sender is not woken", "notify_sender(endpoint, time)", ""),
        ("a callback is not scheduled", "enqueue_callback(task_id, before[3], time)", ""),
        ("a waiting request gets no result", "local with_result = before[5] == '1' and #result <= MAX_ANNOUNCED",
         "local with_result = false"),
    ),
    *_in("include/schedule", ("a callback is not listed", "redis.call('ZADD', UNDELIVERED, due, task_id)", "")),
    *_in(
        "include/ttl",
        ("an Idempotency-Key outlives its task", "redis.call('EXPIRE', idempotency, ttl)", ""),
        ("a resent record expires", "redis.call('PERSIST', task)", ""),
        ("the key of a resent record expires", "redis.call('PERSIST', idempotency)", ""),
    ),
    *_in(
        "tasks/accept",
        ("a task is accepted twice", "if redis.call('EXISTS', task) == 0 then", "if true then"),
        ("one task too many waits", "if redis.call('LLEN', QUEUE) >= queue_limit then",
         "if redis.call('LLEN', QUEUE) > queue_limit then"),
        ("a key makes two tasks", "if before[1] and redis.call('EXISTS', TASK .. before[1]) == 1 then", "if false then"),
        ("a key outlives its task's record", "redis.call('HSET', idempotency, 'task', task_id, 'body', body)",
         "redis.call('HSETNX', idempotency, 'task', task_id)"),
        ("another body is accepted", "return {before[2] == body and 'ACCEPTED' or 'OTHER BODY', before[1], mode[1], mode[2]}",
         "return {'ACCEPTED', before[1], mode[1], mode[2]}"),
        ("a new task goes first", "redis.call('LPUSH', QUEUE, message)", "redis.call('RPUSH', QUEUE, message)"),
        ("a task without a message", "redis.call('LPUSH', QUEUE, message)", ""),
        ("a task without a position", "redis.call('ZADD', WAITING, place, task_id)", ""),
    ),
    *_in(
        "tasks/cancel",
        ("an ended task is cancelled", "if status == 'PENDING' or status == 'STARTED' or status == 'RETRY' then",
         "if status then"),
        ("a running task is not cancelled", "if status == 'PENDING' or status == 'STARTED' or status == 'RETRY' then",
         "if status == 'PENDING' then"),
        ("a cancel is not announced", "announce_completions()", ""),
    ),
]  # fmt: skip

OUTBOX = [
    *_in(
        "outbox/take",
        ("a callback is leased twice", "in_bulk('ZREM', CALLBACKS .. endpoint, seen)", ""),
        ("a callback has no lease", "in_bulk('ZADD', SENDING, leases)", ""),
        ("a lease is never over",
         "for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', SENDING, '-inf', at, 'LIMIT', 0, limit)) do",
         "for _, task_id in ipairs({}) do"),
        ("an endpoint takes all places", "room = math.min(room - (busy[endpoint] or 0), free, limit - #taken)",
         "room = math.min(free, limit - #taken)"),
        ("more are taken than there are places", "room = math.min(room - (busy[endpoint] or 0), free, limit - #taken)",
         "room = math.min(room - (busy[endpoint] or 0), limit - #taken)"),
        ("callbacks are taken before they are due",
         "for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', CALLBACKS .. endpoint, '-inf', at, 'LIMIT', 0, room)) do",
         "for _, task_id in ipairs(redis.call('ZRANGE', CALLBACKS .. endpoint, 0, room - 1)) do"),
        ("the first attempt is not noted", "redis.call('HSET', task, 'callback_first', at)", ""),
        ("the next one that is due is not known", "update_next_due(endpoint, #taken > before)", ""),
    ),
    *_in(
        "outbox/settle",
        ("an attempt of an earlier replay counts", "elseif (record[2] or '0') ~= attempt.replays then",
         "elseif false then"),
        ("what another sender delivered is sent again", "elseif record[1] ~= 'PENDING' then", "elseif false then"),
        ("a failure counts twice",
         "elseif not attempt.delivered and tonumber(record[3] or '0') > attempt.attempts then", "elseif false then"),
        ("a delivered record is kept for ever", "expire(task, record[4], delivered_ttl)", ""),
        ("a failed record is kept as a delivered one", "expire(task, record[4], failed_ttl)",
         "expire(task, record[4], delivered_ttl)"),
        ("a delivered callback is not noted", "note_delivery(task_id, endpoint)", ""),
        ("a delivered callback stays listed", "in_bulk('ZREM', UNDELIVERED, all_delivered)", ""),
        ("a delivered callback waits on", "in_bulk('ZREM', CALLBACKS .. endpoint, task_ids)", ""),
        ("a delivered callback is leased on", "in_bulk('ZREM', SENDING, all_delivered)", ""),
        ("an endpoint that is back is not noticed", "make_due(endpoint)", ""),
        ("one that failed for itself is brought forward", "redis.call('HDEL', task, 'callback_away')", ""),
        ("one path marks its endpoint down for ever", "return redis.call('HINCRBY', task, 'callback_alone', 1) <= lone_failures",
         "return true"),
        ("a failed attempt is retried at once", "return requeue_callback(task_id, endpoint, at + attempt.retry_in)",
         "return requeue_callback(task_id, endpoint, at)"),
        ("a failed attempt is not retried", "return requeue_callback(task_id, endpoint, at + attempt.retry_in)",
         "return redis.call('ZREM', SENDING, task_id)"),
        ("a failed callback is pending", "redis.call('HSET', task, 'callback', 'FAILED')", ""),
        ("a failed callback waits on", "redis.call('ZREM', CALLBACKS .. endpoint, task_id)", ""),
    ),
    *_in(
        "outbox/renew",
        ("a lost lease is renewed", "redis.call('ZADD', SENDING, 'XX', ends, ARGV[i])",
         "redis.call('ZADD', SENDING, ends, ARGV[i])"),
        ("a callback's lease is not renewed", "redis.call('ZADD', SENDING, 'XX', ends, ARGV[i])", ""),
    ),
    *_in(
        "outbox/release",
        ("what is done is released", "if record[2] == 'PENDING' and redis.call('ZSCORE', SENDING, task_id) then",
         "if record[1] then"),
        ("what is no attempt is one", "redis.call('HDEL', task, 'callback_first')", ""),
        ("a released callback waits for its lease", "requeue_callback(task_id, record[1], now())", ""),
    ),
    *_in(
        "outbox/resend",
        ("a resent callback is scheduled twice", "if in_flight then", "if false then"),
        ("a resent callback is listed anew", "redis.call('ZADD', UNDELIVERED, waits_since, task_id)", ""),
        ("a resent record is not kept", "keep_task(task_id)", ""),
        ("a task that has not ended calls back", "if record[1] and record[2] and record[3] then", "if record[1] then"),
        ("a resend does not begin anew",
         "redis.call('HDEL', task, 'callback_attempts', 'callback_status', 'callback_error', 'callback_first',",
         "redis.call('HDEL', task,"),
    ),
    *_in(
        "outbox/prune",
        ("what failed is forgotten", "if redis.call('EXISTS', TASK .. seen[2][i]) == 0 then", "if true then"),
        ("nothing is pruned", "if redis.call('EXISTS', TASK .. seen[2][i]) == 0 then", "if false then"),
    ),
    *_in(
        "include/endpoints",
        ("an endpoint has no next time", "redis.call('ZADD', ENDPOINTS, first[2], endpoint)", ""),
        ("an endpoint is asked for ever", "redis.call('ZREM', ENDPOINTS, endpoint)", ""),
        ("the mark of an endpoint stays", "redis.call('SREM', ENDPOINTS_DOWN, endpoint)", ""),
    ),
]  # fmt: skip

DEAD_LETTERS = [
    *_in(
        "include/dead_letter",
        ("a dead letter forgets its callback", "redis.call('HSET', letter, field, value)", ""),
        ("a dead letter is not listed", "redis.call('ZADD', DEAD_LETTERS, now(), task_id)", ""),
        ("a dead letter is kept for ever", "redis.call('EXPIRE', letter, DEAD_LETTER_TTL)", ""),
    ),
    *_in(
        "dead_letters/replay",
        ("the callback of the first end is sent too", "drop_callback(task_id, redis.call('HGET', task, 'receiver'))", ""),
        ("a replayed letter stays listed", "redis.call('ZREM', DEAD_LETTERS, task_id)", ""),
        ("a replay is not told from the first end",
         "redis.call('HSET', task, 'status', 'PENDING', 'place', place, 'since', now(), 'replays', (fields[4] or 0) + 1)",
         "redis.call('HSET', task, 'status', 'PENDING', 'place', place, 'since', now())"),
        ("a letter is replayed twice", "redis.call('DEL', task, letter)", "redis.call('DEL', task)"),
        ("a replayed task has ended", "redis.call('DEL', task, letter)", "redis.call('DEL', letter)"),
        ("a replayed task does not call back",
         "redis.call('HSET', task, 'callback_uri', fields[2], 'receiver', fields[3])", ""),
        ("a replayed task has no position", "redis.call('ZADD', WAITING, place, task_id)", ""),
        ("the key of a replayed task expires", "keep_task(task_id)", ""),
    ),
]  # fmt: skip

GROUPS = {"claims": CLAIMS, "tasks": TASKS, "outbox": OUTBOX, "dead letters": DEAD_LETTERS}


def is_caught(redis: Redis, mutant: Mutant) -> bool:
    """True when the model test finds a counterexample, or Redis refuses what a script does."""
    try:
        with virtual_time(mutant):
            run(redis, SEEDS)
    except (AssertionError, ResponseError):
        return True
    return False


def survivors(redis: Redis, mutants: Iterable[Mutant]) -> list[str]:
    """The faults that the model test does not find; prints how long each took."""
    missed = []
    for mutant in mutants:
        begun = time.perf_counter()
        caught = is_caught(redis, mutant)
        print(
            f"{'caught' if caught else 'MISSED'} {time.perf_counter() - begun:6.2f} s  {mutant.file}: {mutant.name}",
            flush=True,
        )
        if not caught:
            missed.append(f"{mutant.file}: {mutant.name}")
    return missed


def main(wanted: list[str]) -> int:
    """Run all, or those whose file or name has one of these words in it."""
    mutants = [one for group in GROUPS.values() for one in group]
    chosen = [one for one in mutants if not wanted or any(word in f"{one.file} {one.name}" for word in wanted)]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as url:
        missed = survivors(Redis.from_url(url, decode_responses=True), chosen)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} caught in {time.perf_counter() - begun:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
