"""The callbacks that are to be sent, kept in Redis until their receiver has them."""

from __future__ import annotations

# Lets the record of a task expire, and with it the Idempotency-Key that it came with, if any.
EXPIRE = """
local function expire_task(task_id, lifetime)
    local task = TASK .. task_id
    redis.call('EXPIRE', task, lifetime)
    local idempotency = redis.call('HGET', task, 'idempotency')
    if idempotency then
        redis.call('EXPIRE', idempotency, lifetime)
    end
end
"""

# Puts the callback of a task that has just ended on its receiver's list, as a part of the script that ends it. The
# record keeps its state, and does not expire before the callback is through.
SCHEDULE = """
local function schedule_callback(task_id, due)
    local task = TASK .. task_id
    local receiver = redis.call('HGET', task, 'receiver')
    redis.call('HSET', task, 'callback', 'PENDING')
    redis.call('PERSIST', task)
    redis.call('ZADD', UNDELIVERED, due, task_id)
    redis.call('ZADD', CALLBACKS .. receiver, due, task_id)
    redis.call('ZADD', RECEIVERS, 'LT', due, receiver)
    if redis.call('EXISTS', BELL) == 0 then
        redis.call('LPUSH', BELL, '1')
    end
end
"""

# Takes back the callback of a task that is to run again.
FORGET = """
local function forget_callback(task_id)
    local receiver = redis.call('HGET', TASK .. task_id, 'receiver')
    if receiver then
        redis.call('ZREM', CALLBACKS .. receiver, task_id)
    end
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', UNDELIVERED, task_id)
end
"""
