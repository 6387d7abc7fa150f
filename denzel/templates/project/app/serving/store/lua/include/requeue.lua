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
local function requeue(task_id, died, max_deliveries, ttl)
    local text = redis.call('HGET', UNACKED, task_id)
    release_claims({task_id})
    if not text then
        return
    end
    local message = message_of(text)
    local task = TASK .. task_id
    if redis.call('HEXISTS', task, 'result') == 1 then
        return
    end
    local deliveries = redis.call('HINCRBY', task, 'deliveries', died and 0 or -1)
    if deliveries >= max_deliveries then
        local reason = reason_for(deliveries)
        dead_letter(task_id, message, deliveries, reason)
        complete_tasks({task_id, 'FAILURE', failure('WorkerDied', reason)}, 1, ttl)
        dead_lettered[#dead_lettered + 1], dead_lettered[#dead_lettered + 2] = task_id, reason
        return
    end
    void_reports(task_id)
    redis.call('HSET', task, 'status', 'PENDING', 'since', now())
    announce_change(task_id, redis.call('HGET', task, 'followed'))
    redis.call('ZADD', WAITING, redis.call('HGET', task, 'place') or 0, task_id)
    redis.call('RPUSH', QUEUE, message)
end

-- In the order in which they were accepted, those of other Celery clients first. `died[task_id]` is true for a task of
-- which a process died.
local function requeue_in_order(ids, died, max_deliveries, ttl)
    local places = {}
    for _, task_id in ipairs(ids) do
        places[task_id] = tonumber(redis.call('HGET', TASK .. task_id, 'place') or 0)
    end
    -- Each goes to the head of the queue: the first comes last.
    table.sort(ids, function(one, other) return places[one] > places[other] end)
    for _, task_id in ipairs(ids) do
        requeue(task_id, died[task_id], max_deliveries, ttl)
    end
end
