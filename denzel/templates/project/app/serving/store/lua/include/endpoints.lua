-- The lists of callbacks by endpoint (host:port), and when the first of each is due. An endpoint for which nothing
-- waits and nothing is being sent is dropped, together with the mark that it is down.

local function update_next_due(endpoint, in_flight)
    local first = redis.call('ZRANGE', CALLBACKS .. endpoint, 0, 0, 'WITHSCORES')
    if first[2] then
        redis.call('ZADD', ENDPOINTS, first[2], endpoint)
    else
        redis.call('ZREM', ENDPOINTS, endpoint)
        if not in_flight then
            redis.call('SREM', ENDPOINTS_DOWN, endpoint)
        end
    end
end

local function requeue_callback(task_id, endpoint, due)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZADD', CALLBACKS .. endpoint, due, task_id)
    update_next_due(endpoint)
end

local function drop_callback(task_id, endpoint)
    redis.call('ZREM', SENDING, task_id)
    redis.call('ZREM', UNDELIVERED, task_id)
    if endpoint then
        redis.call('ZREM', CALLBACKS .. endpoint, task_id)
        update_next_due(endpoint)
    end
end
