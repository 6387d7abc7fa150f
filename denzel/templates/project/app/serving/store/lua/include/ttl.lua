-- Lifetime of a task's record, and of the Idempotency-Key that came with the task, if any.

local function expire(task, idempotency, ttl)
    redis.call('EXPIRE', task, ttl)
    if idempotency then
        redis.call('EXPIRE', idempotency, ttl)
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
