"""The steps of the outbox in Redis, as parts of Lua scripts. store/outbox.py says what each is for."""

from __future__ import annotations

# Until when the record of a task is kept, and with it the Idempotency-Key that it came with, if any.
LIFETIME = """
local function expire(task, idempotency, lifetime)
    redis.call('EXPIRE', task, lifetime)
    if idempotency then
        redis.call('EXPIRE', idempotency, lifetime)
    end
end

local function keep_task(task_id)
    local task = TASK .. task_id
    redis.call('PERSIST', task)
    local idempotency = redis.call('HGET', task, 'idempotency')
    if idempotency then
        redis.call('PERSIST', idempotency)
    end
end
"""

# Puts the callback of a task that has just ended on its receiver's list, as a part of the script that ends it, and
# calls the sender. The record keeps its state, and does not expire before the callback is through.
SCHEDULE = (
    LIFETIME
    + """
local function put_on_list(task_id, receiver, due)
    redis.call('ZADD', UNDELIVERED, due, task_id)
    redis.call('ZADD', CALLBACKS .. receiver, due, task_id)
end

local function call_for(receiver, due)
    redis.call('ZADD', ENDPOINTS, 'LT', due, receiver)
    if redis.call('EXISTS', WAKEUP) == 0 then
        redis.call('LPUSH', WAKEUP, '1')
    end
end
"""
)

# `refresh` keeps the first due time of a receiver in step with its list. One for which nothing waits, and nothing is
# being sent, is nobody any more: whether it is down is forgotten too.
LISTS = """
local function refresh(receiver, is_sent)
    local first = redis.call('ZRANGE', CALLBACKS .. receiver, 0, 0, 'WITHSCORES')
    if first[2] then
        redis.call('ZADD', ENDPOINTS, first[2], receiver)
    else
        redis.call('ZREM', ENDPOINTS, receiver)
        if not is_sent then
            redis.call('SREM', ENDPOINTS_DOWN, receiver)
        end
    end
end

local function put_back(task_id, receiver, due)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZADD', CALLBACKS .. receiver, due, task_id)
    refresh(receiver)
end

local function forget(task_id, receiver)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', UNDELIVERED, task_id)
    if receiver then
        redis.call('ZREM', CALLBACKS .. receiver, task_id)
        refresh(receiver)
    end
end
"""

# Takes back the callback of a task that is to run again.
FORGET = (
    LISTS
    + """
local function forget_callback(task_id)
    forget(task_id, redis.call('HGET', TASK .. task_id, 'receiver'))
end
"""
)

# Room is shared: the fewer places are free, the fewer a receiver may take, so that some that hang leave places to all
# others. One that is down is tried by a few callbacks at a time: it may be some of its paths that hang, and not all.
# Results are counted in bytes too: when there are enough, the take is over. A lease that ends later than one that
# begins now was given before the clock was set back.
TAKE = """
local ROOM_WHEN_DOWN = 4
local free, per_receiver, lease, at_most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local free_bytes, busy = tonumber(ARGV[5]), cjson.decode(ARGV[6])
local at = now()

local function take_back(task_id)
    local record = redis.call('HMGET', TASK .. task_id, 'receiver', 'callback')
    if record[1] and record[2] == 'PENDING' then
        put_back(task_id, record[1], at)
    else
        redis.call('ZREM', SENDING, task_id)
    end
end

for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', SENDING, '-inf', at, 'LIMIT', 0, at_most)) do
    take_back(task_id)
end
local longest = string.format('(%.6f', at + 2 * lease)
for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', SENDING, longest, '+inf', 'LIMIT', 0, at_most)) do
    take_back(task_id)
end

local taken = {}
local function take(task_id, receiver)
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'callback_uri', 'status', 'result', 'callback_attempts', 'replays',
        'callback_first')
    if not record[1] or not record[3] then
        redis.call('ZREM', UNDELIVERED, task_id)
        return 0
    end
    if not record[6] then
        redis.call('HSET', task, 'callback_first', at)
    end
    taken[#taken + 1] = {task_id, receiver, record[1], record[2], record[3], record[4] or '0',
        string.format('%.6f', at - tonumber(record[6] or at)), record[5] or '0'}
    free_bytes = free_bytes - #record[3]
    return 1
end

for _, receiver in ipairs(redis.call('ZRANGEBYSCORE', ENDPOINTS, '-inf', at)) do
    if free <= 0 or free_bytes <= 0 or #taken >= at_most then
        break
    end
    local room = math.min(per_receiver, math.max(1, math.floor(free / per_receiver)))
    if redis.call('SISMEMBER', ENDPOINTS_DOWN, receiver) == 1 then
        room = math.min(room, ROOM_WHEN_DOWN)
    end
    room = math.min(room - (busy[receiver] or 0), free, at_most - #taken)
    if room > 0 then
        local before, seen, leases = #taken, {}, {}
        for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', CALLBACKS .. receiver, '-inf', at, 'LIMIT', 0, room)) do
            if free_bytes <= 0 then
                break
            end
            seen[#seen + 1] = task_id
            free = free - take(task_id, receiver)
        end
        for i = before + 1, #taken do
            leases[#leases + 1], leases[#leases + 2] = at + lease, taken[i][1]
        end
        in_bulk('ZREM', CALLBACKS .. receiver, seen)
        in_bulk('ZADD', SENDING, leases)
        refresh(receiver, #taken > before)
    end
end

local later = redis.call('ZRANGEBYSCORE', ENDPOINTS, '(' .. string.format('%.6f', at), '+inf', 'WITHSCORES',
    'LIMIT', 0, 1)
return {later[2] and string.format('%.6f', later[2] - at) or '', taken}
"""

RENEW = """
local ends = now() + tonumber(ARGV[1])
for i = 2, #ARGV do
    redis.call('ZADD', SENDING, 'XX', ends, ARGV[i])
end
"""

# What was said of an earlier event of the same task, or of a callback that another sender brought through, changes
# nothing any more; nor does a failure that is said twice, as after an answer that was lost.
SETTLE = """
local result_lifetime, kept_for, lone_failures = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at = now()

-- The receiver is back: what waits because of it is due now.
local function hurry(receiver)
    local list = CALLBACKS .. receiver
    for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', list, '(' .. string.format('%.6f', at), '+inf')) do
        if redis.call('HEXISTS', TASK .. task_id, 'callback_away') == 1 then
            redis.call('ZADD', list, at, task_id)
        end
    end
    refresh(receiver)
end

-- Whether this failure says that the receiver is away, and not that it cannot stand this callback.
local function receiver_is_away(task, receiver)
    if redis.call('SISMEMBER', ENDPOINTS_DOWN, receiver) == 1 then
        return true
    end
    return redis.call('HINCRBY', task, 'callback_alone', 1) <= lone_failures
end

-- What has arrived, by receiver; and all of it.
local arrived, all_arrived = {}, {}

local function note_arrival(task_id, receiver)
    arrived[receiver] = arrived[receiver] or {}
    table.insert(arrived[receiver], task_id)
    table.insert(all_arrived, task_id)
end

local function forget_arrived()
    in_bulk('ZREM', SENDING, all_arrived)
    in_bulk('ZREM', UNDELIVERED, all_arrived)
    for receiver, task_ids in pairs(arrived) do
        in_bulk('ZREM', CALLBACKS .. receiver, task_ids)
        refresh(receiver)
    end
end

local function settle(outcome)
    local task_id, receiver = outcome.task_id, outcome.receiver
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'callback', 'replays', 'callback_attempts', 'idempotency',
        'callback_error')
    if not record[1] then
        return forget(task_id, receiver)
    elseif (record[2] or '0') ~= outcome.replays then
        return
    elseif record[1] ~= 'PENDING' then
        return redis.call('ZREM', SENDING, task_id)
    elseif not outcome.delivered and tonumber(record[3] or '0') > outcome.attempts then
        return
    end
    local attempts = tonumber(record[3] or '0') + 1
    if outcome.delivered then
        redis.call('HSET', task, 'callback_attempts', attempts, 'callback_status', outcome.status,
            'callback', 'DELIVERED')
        if record[5] then
            redis.call('HDEL', task, 'callback_error', 'callback_away')
        end
        expire(task, record[4], result_lifetime)
        note_arrival(task_id, receiver)
        if redis.call('SREM', ENDPOINTS_DOWN, receiver) == 1 then
            hurry(receiver)
        end
        return
    end
    redis.call('HSET', task, 'callback_attempts', attempts, 'callback_status', outcome.status,
        'callback_error', outcome.error)
    if outcome.retry_in then
        if outcome.away and receiver_is_away(task, receiver) then
            redis.call('SADD', ENDPOINTS_DOWN, receiver)
            redis.call('HSET', task, 'callback_away', 1)
        else
            redis.call('HDEL', task, 'callback_away')
        end
        return put_back(task_id, receiver, at + outcome.retry_in)
    end
    redis.call('HSET', task, 'callback', 'FAILED')
    expire(task, record[4], kept_for)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', CALLBACKS .. receiver, task_id)
    refresh(receiver)
end

for _, outcome in ipairs(cjson.decode(ARGV[1])) do
    settle(outcome)
end
forget_arrived()
"""

RELEASE = """
for _, task_id in ipairs(ARGV) do
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'receiver', 'callback', 'callback_attempts')
    if record[2] == 'PENDING' and redis.call('ZSCORE', SENDING, task_id) then
        if (record[3] or '0') == '0' then
            redis.call('HDEL', task, 'callback_first')
        end
        put_back(task_id, record[1], now())
    end
end
"""

RESEND = """
local unknown, at = {}, now()

-- With a schedule that begins anew.
local function schedule_again(task_id, receiver)
    local task = TASK .. task_id
    redis.call('HSET', task, 'callback', 'PENDING')
    redis.call('HDEL', task, 'callback_attempts', 'callback_status', 'callback_error', 'callback_first',
        'callback_alone', 'callback_away')
    keep_task(task_id)
    put_on_list(task_id, receiver, at)
    call_for(receiver, at)
end

for _, task_id in ipairs(ARGV) do
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'receiver', 'callback', 'result')
    if record[1] and record[2] and record[3] then
        local waits_since = redis.call('ZSCORE', UNDELIVERED, task_id) or at
        local is_sent = redis.call('ZSCORE', SENDING, task_id)
        schedule_again(task_id, record[1])
        redis.call('ZADD', UNDELIVERED, waits_since, task_id)
        if is_sent then
            redis.call('ZREM', CALLBACKS .. record[1], task_id)
        end
        refresh(record[1], is_sent)
    else
        unknown[#unknown + 1] = task_id
    end
end
return unknown
"""

LIST = """
local rows = {}
for _, task_id in ipairs(redis.call('ZRANGE', UNDELIVERED, ARGV[1], ARGV[2])) do
    local record = redis.call('HMGET', TASK .. task_id, 'callback_uri', 'callback', 'callback_attempts',
        'callback_status', 'callback_error', 'receiver')
    local due = record[6] and redis.call('ZSCORE', CALLBACKS .. record[6], task_id)
    rows[#rows + 1] = {task_id, record[1] or '', record[2] or '', record[3] or '0', record[4] or '',
        record[5] or '', due or ''}
end
return rows
"""

PRUNE = """
local seen = redis.call('ZSCAN', UNDELIVERED, ARGV[1], 'COUNT', ARGV[2])
for i = 1, #seen[2], 2 do
    if redis.call('EXISTS', TASK .. seen[2][i]) == 0 then
        redis.call('ZREM', UNDELIVERED, seen[2][i])
    end
end
return seen[1]
"""
