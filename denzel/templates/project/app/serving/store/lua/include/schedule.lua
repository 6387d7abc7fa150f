-- Scheduling of a callback, as a part of the script that ends its task. The record keeps its state, and does not
-- expire before the callback is through.
-- @include ttl

local function enqueue_callback(task_id, endpoint, due)
    redis.call('ZADD', UNDELIVERED, due, task_id)
    redis.call('ZADD', CALLBACKS .. endpoint, due, task_id)
end

local function notify_sender(endpoint, due)
    redis.call('ZADD', ENDPOINTS, 'LT', due, endpoint)
    if redis.call('EXISTS', WAKEUP) == 0 then
        redis.call('LPUSH', WAKEUP, '1')
    end
end
