#!lua flags=allow-oom
-- List callbacks that are not delivered, in the order in which their tasks ended.
-- KEYS: none
-- ARGV: 1 index of the first, 2 of the last
-- Answer: {task id, uri, state or '', attempts, last status or '', last error or '', time of the next attempt or ''}
--         of each

local rows = {}
for _, task_id in ipairs(redis.call('ZRANGE', UNDELIVERED, ARGV[1], ARGV[2])) do
    local record = redis.call('HMGET', TASK .. task_id, 'callback_uri', 'callback', 'callback_attempts',
        'callback_status', 'callback_error', 'receiver')
    local due = record[6] and redis.call('ZSCORE', CALLBACKS .. record[6], task_id)
    rows[#rows + 1] = {task_id, record[1] or '', record[2] or '', record[3] or '0', record[4] or '',
        record[5] or '', due or ''}
end
return rows
