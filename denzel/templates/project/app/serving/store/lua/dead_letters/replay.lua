#!lua flags=allow-oom
-- Put a dead letter on the queue again, under its own id, so that whoever waits for the task finds its result; the
-- count of replays tells its callbacks apart.
-- @include common
-- @include ttl
-- @include endpoints
-- KEYS: none
-- ARGV: 1 task id
-- Answer: true; false when there is no such dead letter, or it is no task

local task_id = ARGV[1]
local task, letter = TASK .. task_id, DEAD_LETTER .. task_id
local fields = redis.call('HMGET', letter, 'message', 'callback_uri', 'receiver', 'replays')
if not fields[1] or redis.call('HGET', letter, 'deliveries') == '0' then
    return false
end
drop_callback(task_id, redis.call('HGET', task, 'receiver'))
local before = redis.call('HMGET', task, 'idempotency', 'restarts')
local idempotency = before[1]
redis.call('DEL', task, letter, OUTPUT .. task_id)
redis.call('ZREM', DEAD_LETTERS, task_id)
local place, time = redis.call('INCR', ACCEPTED), now()
redis.call('HSET', task, 'status', 'PENDING', 'place', place, 'since', time, 'accepted', time)
redis.call('HSET', task, 'replays', (fields[4] or 0) + 1, 'restarts', (before[2] or 0) + 1)
if fields[2] then
    redis.call('HSET', task, 'callback_uri', fields[2], 'receiver', fields[3])
end
if idempotency then
    redis.call('HSET', task, 'idempotency', idempotency)
    keep_task(task_id)
end
redis.call('ZADD', WAITING, place, task_id)
redis.call('LPUSH', QUEUE, fields[1])
return true
