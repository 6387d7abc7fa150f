#!lua flags=allow-oom
-- Claim messages for processes that can run them: each process several in one batch, or one isolated. A task that was
-- delivered before is isolated, so that one which kills its process is not mistaken for another; so is a message of
-- another Celery client. A process that polls for itself claims none that must be isolated, and its tasks are noted.
-- @include common
-- @include messages
-- @include dead_letter
-- KEYS: 1 the note of the polling process
-- ARGV: 1 owner, 2 key of the host's count of claims, 3 free processes, 4 batch limit, 5 processes among which the
--       queue is split (0: not), 6 poll session and 7 its round, or '' and '' when the worker claims for its
--       processes, 8 seconds to keep the note
-- Answer: {{message, tag, deliveries, waiting since} of each, {message, waiting since} of each that was cancelled}

local MAX_BYTES = 1024 * 1024
local owner, count_key, free, limit = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local sharers, session, round = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if sharers > 0 then
    limit = math.max(1, math.min(limit, math.ceil(redis.call('LLEN', QUEUE) / sharers)))
end
local time, taken, cancelled, bytes = now(), {}, {}, 0
local places = session and limit or 0
local ids, waited, messages, times, owners = {}, {}, {}, {}, {}

local function add_pair(list, first, second)
    list[#list + 1], list[#list + 2] = first, second
end

local function take(task_id, tag, message, deliveries, since)
    redis.call('HSET', TASK .. task_id, 'status', 'STARTED', 'since', time, 'deliveries', deliveries)
    waited[#waited + 1] = since or tostring(time)
    taken[#taken + 1] = {message, tag, deliveries, waited[#waited]}
    ids[#ids + 1], bytes = task_id, bytes + #message
    add_pair(messages, tag, claim_text(message))
    add_pair(times, time, tag)
    add_pair(owners, tag, owner)
end

-- Large ones are claimed a few at a time, so that neither this script nor their transfer takes long.
while (places > 0 or free > 0) and bytes < MAX_BYTES do
    local message = redis.call('RPOP', QUEUE)
    if not message then
        break
    end
    local task_id, tag = task_of(message)
    local record = task_id and redis.call('HMGET', TASK .. task_id, 'status', 'deliveries', 'since') or {}
    local status, delivered = record[1], tonumber(record[2] or 0)
    if not (task_id and tag) then
        -- Not a Celery message; nothing is thrown away.
        dead_letter(string.format('unreadable-%.6f', now()), message, 0, 'not a message that Celery could have sent')
    elseif status == 'PENDING' or status == 'STARTED' or status == 'RETRY' or (not status and tag ~= task_id) then
        local is_isolated = delivered > 0 or tag ~= task_id
        if is_isolated and free == 0 then
            redis.call('RPUSH', QUEUE, message)
            break
        elseif is_isolated then
            free = free - 1
        else
            if places == 0 then
                free, places = free - 1, limit
            end
            places = places - 1
        end
        take(task_id, tag, message, delivered + 1, record[3])
    elseif status == 'REVOKED' then
        cancelled[#cancelled + 1], bytes = {message, record[3] or tostring(time)}, bytes + #message
    end
end
if #ids > 0 then
    in_bulk('ZREM', WAITING, ids)
    in_bulk('HSET', UNACKED, messages)
    in_bulk('ZADD', UNACKED_INDEX, times)
    in_bulk('HSET', OWNERS, owners)
    redis.call('INCRBY', count_key, #ids)
    redis.call('EXPIRE', count_key, 86400)
end
if session and #ids > 0 then
    redis.call('SET', KEYS[1], cjson.encode({session, round, ids, waited}), 'EX', ARGV[8])
end
return {taken, cancelled}
