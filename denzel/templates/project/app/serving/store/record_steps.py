"""The steps of the records in Redis, as parts of Lua scripts. store/tasks.py says what each is for."""

from __future__ import annotations

from app.serving.store.outbox_steps import SCHEDULE

# Ends tasks: result, callback and the claim of whoever ran it change together. The first end of a task stands: a
# repeated run changes neither its result nor sends a second callback. `tag` is the delivery tag of its message.
# `announce_ends` tells all ends of one script at once, with the results that requests wait for: those need not ask.
END = (
    SCHEDULE
    + """
local LONGEST_ANNOUNCED = 64 * 1024
local ends = {}

local function announce_ends()
    if #ends > 0 then
        redis.call('PUBLISH', COMPLETIONS, cjson.encode(ends))
    end
end

local function release_claims(tags)
    in_bulk('HDEL', UNACKED, tags)
    in_bulk('ZREM', UNACKED_INDEX, tags)
    in_bulk('HDEL', OWNERS, tags)
end

local function end_task(task_id, status, result, time, lifetime, receivers)
    local task = TASK .. task_id
    local before = redis.call('HMGET', task, 'result', 'callback_uri', 'receiver', 'idempotency', 'awaited')
    if before[1] then
        return
    end
    if before[2] then
        redis.call('HSET', task, 'status', status, 'result', result, 'callback', 'PENDING')
        put_on_list(task_id, before[3], time)
        receivers[before[3]] = true
    else
        redis.call('HSET', task, 'status', status, 'result', result)
        expire(task, before[4], lifetime)
    end
    local is_told = before[5] == '1' and #result <= LONGEST_ANNOUNCED
    ends[#ends + 1] = is_told and {task_id, status, result} or {task_id}
end

-- From the place `first` on, `told` holds the id, tag, status and result of one task after the other.
local function end_tasks(told, first, lifetime)
    local time, ids, tags, receivers = now(), {}, {}, {}
    for i = first, #told, 4 do
        ids[#ids + 1], tags[#tags + 1] = told[i], told[i + 1]
        end_task(told[i], told[i + 2], told[i + 3], time, lifetime, receivers)
    end
    release_claims(tags)
    in_bulk('ZREM', WAITING, ids)
    for receiver in pairs(receivers) do
        call_for(receiver, time)
    end
end
"""
)

# A repeated call, after a connection broke between the write and its answer, changes nothing.
ACCEPT = """
local task_id, message, callback_uri, receiver = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local queue_limit, idempotency, body, prefer, mode_set = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local task = TASK .. task_id
local mode = redis.call('HMGET', RESPONSE, 'mode', 'timeout')
if idempotency ~= '' then
    local before = redis.call('HMGET', idempotency, 'task', 'body')
    if before[1] and redis.call('EXISTS', TASK .. before[1]) == 1 then
        return {before[2] == body and 'ACCEPTED' or 'OTHER BODY', before[1], mode[1], mode[2]}
    end
end
if redis.call('EXISTS', task) == 0 then
    if redis.call('LLEN', QUEUE) >= queue_limit then
        return {'FULL'}
    end
    local place = redis.call('INCR', ACCEPTED)
    local fields = {'status', 'PENDING', 'place', place, 'since', now()}
    local function add(name, value)
        fields[#fields + 1], fields[#fields + 2] = name, value
    end
    if callback_uri ~= '' then
        add('callback_uri', callback_uri)
        add('receiver', receiver)
    end
    if idempotency ~= '' then
        add('idempotency', idempotency)
        redis.call('HSET', idempotency, 'task', task_id, 'body', body)
        redis.call('PERSIST', idempotency)
    end
    if prefer == 'wait' or (prefer == '' and (mode[1] or mode_set) == 'sync') then
        -- Its end is announced with the result.
        add('awaited', '1')
    end
    redis.call('HSET', task, unpack(fields))
    redis.call('ZADD', WAITING, place, task_id)
    redis.call('LPUSH', QUEUE, message)
end
return {'ACCEPTED', task_id, mode[1], mode[2]}
"""

# Says how many tasks wait, for whoever has ended these.
END_SOME = """
end_tasks(ARGV, 2, ARGV[1])
announce_ends()
return redis.call('LLEN', QUEUE)
"""

# A waiting task's message stays in the queue, and is dropped when its turn comes.
CANCEL = """
local status = redis.call('HGET', TASK .. ARGV[1], 'status')
if status == 'PENDING' or status == 'STARTED' or status == 'RETRY' then
    end_tasks({ARGV[1], ARGV[1], 'REVOKED', ARGV[2]}, 1, ARGV[3])
    announce_ends()
    return 'REVOKED'
end
return status
"""
