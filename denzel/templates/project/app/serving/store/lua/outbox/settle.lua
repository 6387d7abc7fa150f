#!lua flags=allow-oom
-- Record how delivery attempts ended. An attempt of an earlier replay, or of a callback that another sender
-- delivered, changes nothing; nor does a failure that is reported twice, as after an answer that was lost.
-- @include common
-- @include ttl
-- @include endpoints
-- KEYS: none
-- ARGV: 1 the attempts as JSON (outbox.py, `_attempt_fields`), 2 and 3 seconds to keep the record of a delivered and
--       of a failed callback, 4 failures of one callback that may count for its endpoint while others get through
-- Answer: none

local delivered_ttl, failed_ttl, lone_failures = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local at = now()

-- The endpoint is back: what waits because of it is due now.
local function make_due(endpoint)
    local list = CALLBACKS .. endpoint
    for _, task_id in ipairs(redis.call('ZRANGEBYSCORE', list, '(' .. string.format('%.6f', at), '+inf')) do
        if redis.call('HEXISTS', TASK .. task_id, 'callback_away') == 1 then
            redis.call('ZADD', list, at, task_id)
        end
    end
    update_next_due(endpoint)
end

-- True when a failure is the endpoint's and not this one callback's.
local function endpoint_is_down(task, endpoint)
    if redis.call('SISMEMBER', ENDPOINTS_DOWN, endpoint) == 1 then
        return true
    end
    return redis.call('HINCRBY', task, 'callback_alone', 1) <= lone_failures
end

-- What was delivered, by endpoint; and all of it.
local delivered, all_delivered = {}, {}

local function note_delivery(task_id, endpoint)
    delivered[endpoint] = delivered[endpoint] or {}
    table.insert(delivered[endpoint], task_id)
    table.insert(all_delivered, task_id)
end

local function drop_delivered()
    in_bulk('ZREM', SENDING, all_delivered)
    in_bulk('ZREM', UNDELIVERED, all_delivered)
    for endpoint, task_ids in pairs(delivered) do
        in_bulk('ZREM', CALLBACKS .. endpoint, task_ids)
        update_next_due(endpoint)
    end
end

local function settle(attempt)
    local task_id, endpoint = attempt.task_id, attempt.endpoint
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'callback', 'replays', 'callback_attempts', 'idempotency',
        'callback_error')
    if not record[1] then
        return drop_callback(task_id, endpoint)
    elseif (record[2] or '0') ~= attempt.replays then
        return
    elseif record[1] ~= 'PENDING' then
        return redis.call('ZREM', SENDING, task_id)
    elseif not attempt.delivered and tonumber(record[3] or '0') > attempt.attempts then
        return
    end
    local attempts = tonumber(record[3] or '0') + 1
    if attempt.delivered then
        redis.call('HSET', task, 'callback_attempts', attempts, 'callback_status', attempt.status,
            'callback', 'DELIVERED')
        if record[5] then
            redis.call('HDEL', task, 'callback_error', 'callback_away')
        end
        expire(task, record[4], delivered_ttl)
        note_delivery(task_id, endpoint)
        if redis.call('SREM', ENDPOINTS_DOWN, endpoint) == 1 then
            make_due(endpoint)
        end
        return
    end
    redis.call('HSET', task, 'callback_attempts', attempts, 'callback_status', attempt.status,
        'callback_error', attempt.error)
    if attempt.retry_in then
        if attempt.endpoint_down and endpoint_is_down(task, endpoint) then
            redis.call('SADD', ENDPOINTS_DOWN, endpoint)
            redis.call('HSET', task, 'callback_away', 1)
        else
            redis.call('HDEL', task, 'callback_away')
        end
        return requeue_callback(task_id, endpoint, at + attempt.retry_in)
    end
    redis.call('HSET', task, 'callback', 'FAILED')
    expire(task, record[4], failed_ttl)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', CALLBACKS .. endpoint, task_id)
    update_next_due(endpoint)
end

for _, attempt in ipairs(cjson.decode(ARGV[1])) do
    settle(attempt)
end
drop_delivered()
