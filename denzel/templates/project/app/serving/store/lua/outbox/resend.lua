#!lua flags=allow-oom
-- Send callbacks again now, with a schedule that starts over.
-- @include common
-- @include endpoints
-- @include schedule
-- KEYS: none
-- ARGV: the task ids
-- Answer: the ids that are unknown: without a record, without a callback, or not ended

local unknown, at = {}, now()

local function schedule_again(task_id, endpoint)
    local task = TASK .. task_id
    redis.call('HSET', task, 'callback', 'PENDING')
    redis.call('HDEL', task, 'callback_attempts', 'callback_status', 'callback_error', 'callback_first',
        'callback_alone', 'callback_away')
    keep_task(task_id)
    enqueue_callback(task_id, endpoint, at)
    notify_sender(endpoint, at)
end

for _, task_id in ipairs(ARGV) do
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'receiver', 'callback', 'result')
    if record[1] and record[2] and record[3] then
        local waits_since = redis.call('ZSCORE', UNDELIVERED, task_id) or at
        local in_flight = redis.call('ZSCORE', SENDING, task_id)
        schedule_again(task_id, record[1])
        redis.call('ZADD', UNDELIVERED, waits_since, task_id)
        if in_flight then
            redis.call('ZREM', CALLBACKS .. record[1], task_id)
        end
        update_next_due(record[1], in_flight)
    else
        unknown[#unknown + 1] = task_id
    end
end
return unknown
