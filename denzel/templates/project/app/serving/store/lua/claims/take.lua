#!lua flags=allow-oom
-- Store how the tasks of a process ended, and claim the next messages for it: a batch, or a single one that was
-- delivered before, so that one which kills its process is not mistaken for another.
-- @include completion
-- @include messages
-- @include dead_letter
-- @include owners
-- KEYS: none
-- ARGV: 1 owner and epoch, 2 batch limit, 3 processes among which the queue is split (0: not), 4 seconds to keep a
--       result, then for each task that has ended its id, status and result (JSON)
-- Answer: {{task id, message, deliveries, waiting since} of each, {message, waiting since} of each that was cancelled,
--         number of tasks that wait}

local MAX_BYTES = 1024 * 1024
local holder, limit, sharers = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if ARGV[5] then
    complete_tasks(ARGV, 5, ARGV[4])
    announce_completions()
end
if sharers > 0 then
    limit = math.max(1, math.min(limit, math.ceil(redis.call('LLEN', QUEUE) / sharers)))
end
local time, taken, cancelled, bytes = stamp(now()), {}, {}, 0
local ids, messages, holders = {}, {}, {}

local function add_pair(list, first, second)
    list[#list + 1], list[#list + 2] = first, second
end

local function take(task_id, message, deliveries, since, followed)
    redis.call('HSET', TASK .. task_id, 'status', 'STARTED', 'since', time, 'started', time, 'deliveries', deliveries)
    announce_change(task_id, followed)
    taken[#taken + 1] = {task_id, message, deliveries, since or time}
    ids[#ids + 1], bytes = task_id, bytes + #message
    add_pair(messages, task_id, claim_text(message))
    add_pair(holders, task_id, holder)
end

-- Large ones are claimed a few at a time, so that neither this script nor their transfer takes long.
while limit > 0 and bytes < MAX_BYTES do
    local message = redis.call('RPOP', QUEUE)
    if not message then
        break
    end
    local task_id, tag = task_of(message)
    local record = task_id and redis.call('HMGET', TASK .. task_id, 'status', 'deliveries', 'since', 'followed') or {}
    local status, delivered = record[1], tonumber(record[2] or 0)
    if not (task_id and tag) then
        -- Not a Celery message; nothing is thrown away.
        dead_letter(string.format('unreadable-%.6f', now()), message, 0, 'not a message that Celery could have sent')
    elseif status == 'PENDING' or status == 'STARTED' or status == 'RETRY' or (not status and tag ~= task_id) then
        if delivered > 0 and #ids > 0 then
            redis.call('RPUSH', QUEUE, message)
            break
        end
        limit = delivered > 0 and 0 or limit - 1
        take(task_id, message, delivered + 1, record[3], record[4])
    elseif status == 'REVOKED' then
        cancelled[#cancelled + 1], bytes = {message, record[3] or time}, bytes + #message
    end
end
if #ids > 0 then
    in_bulk('ZREM', WAITING, ids)
    in_bulk('HSET', UNACKED, messages)
    in_bulk('HSET', OWNERS, holders)
    redis.call('ZADD', LEASES, time, (owner_of(holder)))
end
return {taken, cancelled, redis.call('LLEN', QUEUE)}
