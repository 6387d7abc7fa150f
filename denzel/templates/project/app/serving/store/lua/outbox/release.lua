#!lua flags=allow-oom
-- Release the leases of callbacks: they are due now, and this was no attempt.
-- @include common
-- @include endpoints
-- KEYS: none
-- ARGV: the task ids
-- Answer: none

for _, task_id in ipairs(ARGV) do
    local task = TASK .. task_id
    local record = redis.call('HMGET', task, 'receiver', 'callback', 'callback_attempts')
    if record[2] == 'PENDING' and redis.call('ZSCORE', SENDING, task_id) then
        if (record[3] or '0') == '0' then
            redis.call('HDEL', task, 'callback_first')
        end
        requeue_callback(task_id, record[1], now())
    end
end
