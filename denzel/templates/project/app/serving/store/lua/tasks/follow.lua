#!lua flags=allow-oom
-- Read a task's state and the outputs that a reader does not have, and let its changes be announced from now on.
-- KEYS: none
-- ARGV: 1 task id, 2 its restarts as the reader knows them, 3 outputs of that delivery that the reader has, 4 and 5
--       limits of the outputs in this answer, in number and bytes
-- Answer: {status, restarts, reports, progress (JSON), time of the start, deliveries, number of outputs, rank among
--         those that wait, number of outputs before these, these, names and values of the record if it has ended and
--         these are the last}, each or false; false when there is no such task

local task_id, max_outputs, max_bytes = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local task = TASK .. task_id
local record = redis.call('HMGET', task, 'status', 'restarts', 'reports', 'progress', 'started', 'deliveries',
    'outputs', 'outputs_from', 'followed')
local status, restarts, total, from = record[1], record[2] or '0', tonumber(record[7] or 0), tonumber(record[8] or 0)
if not status then
    return false
end
local has_ended = status == 'SUCCESS' or status == 'FAILURE' or status == 'REVOKED'
if not (has_ended or record[9]) then
    redis.call('HSET', task, 'followed', 1)
end

local first = math.max(from, restarts == ARGV[2] and math.min(tonumber(ARGV[3]), total) or 0)
local outputs, bytes = {}, 0
if first < total then
    for _, text in ipairs(redis.call('LRANGE', OUTPUT .. task_id, first - from, first - from + max_outputs - 1)) do
        bytes = bytes + #text
        if bytes > max_bytes and #outputs > 0 then
            break
        end
        outputs[#outputs + 1] = text
    end
    if #outputs == 0 then
        -- They have expired.
        first = total
    end
end
local is_complete = first + #outputs == total
return {status, restarts, record[3], record[4], record[5], record[6], total, redis.call('ZRANK', WAITING, task_id),
    first, outputs, has_ended and is_complete and redis.call('HGETALL', task)}
