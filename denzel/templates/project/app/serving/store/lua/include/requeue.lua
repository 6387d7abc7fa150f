-- The return of a claimed message to the queue, or its end as a dead letter.
-- @include completion
-- @include dead_letter
-- @include messages

-- The id of each task that became a dead letter, and the reason, one after the other.
local dead_lettered = {}

local function reason_for(deliveries)
    return 'the worker died while running this task, ' .. (deliveries == 1 and 'once' or deliveries .. ' times')
end

-- `died`: a process died while it ran the task. That counts as a delivery, and the last one ends the task.
local function requeue(tag, died, max_deliveries, ttl)
    local text = redis.call('HGET', UNACKED, tag)
    release_claims({tag})
    if not text then
        return
    end
    local message = message_of(text)
    local task_id = task_of(message)
    local task = TASK .. task_id
    if redis.call('HEXISTS', task, 'result') == 1 then
        return
    end
    local deliveries = redis.call('HINCRBY', task, 'deliveries', died and 0 or -1)
    if deliveries >= max_deliveries then
        local reason = reason_for(deliveries)
        dead_letter(task_id, message, deliveries, reason)
        complete_tasks({task_id, tag, 'FAILURE', cjson.encode({args = {reason}})}, 1, ttl)
        dead_lettered[#dead_lettered + 1], dead_lettered[#dead_lettered + 2] = task_id, reason
        return
    end
    redis.call('HSET', task, 'status', 'PENDING', 'since', now())
    redis.call('ZADD', WAITING, redis.call('HGET', task, 'place') or 0, task_id)
    redis.call('RPUSH', QUEUE, message)
end

-- In the order in which they were accepted, those of other Celery clients first. `died(tag)` is true for a task of which
-- a process died.
local function requeue_in_order(tags, died, max_deliveries, ttl)
    local places = {}
    for _, tag in ipairs(tags) do
        local task_id = task_of(redis.call('HGET', UNACKED, tag) or '')
        places[tag] = tonumber(task_id and redis.call('HGET', TASK .. task_id, 'place') or 0)
    end
    -- Each goes to the head of the queue: the first comes last.
    table.sort(tags, function(one, other) return places[one] > places[other] end)
    for _, tag in ipairs(tags) do
        requeue(tag, died(tag), max_deliveries, ttl)
    end
end
