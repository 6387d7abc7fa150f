-- Accept a task: write its record and put its message on the queue. A repeated call, after a connection broke between
-- the write and its answer, changes nothing. Without flags, so that Redis refuses the first write at its memory
-- limit.
-- @include common
-- KEYS: none
-- ARGV: 1 task id, 2 message, 3 callback_uri or '', 4 its endpoint (host:port) or '', 5 limit of waiting tasks, 6 key
--       of the Idempotency-Key or '', 7 digest of the body that came with it, 8 'wait', 'respond-async' or '', 9 the
--       deployment's own response mode, 'sync' or 'async', 10 the channel of its end if the request waits
-- Answer: {'ACCEPTED' or 'OTHER BODY', task id, mode, timeout} with what `denzel response` has set, or {'FULL'}

local task_id, message, callback_uri, endpoint = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local queue_limit, idempotency, body, prefer, mode_set = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local task = TASK .. task_id
local mode = redis.call('HMGET', RESPONSE, 'mode', 'timeout')
if idempotency ~= '' then
    local before = redis.call('HMGET', idempotency, 'task', 'body')
    if before[1] and redis.call('EXISTS', TASK .. before[1]) == 1 then
        return {before[2] == body and 'ACCEPTED' or 'OTHER BODY', before[1], mode[1], mode[2]}
    end
end
if redis.call('EXISTS', task) == 0 then
    if redis.call('LLEN', QUEUE) >= queue_limit then
        return {'FULL'}
    end
    local place = redis.call('INCR', ACCEPTED)
    local time = stamp(now())
    local fields = {'status', 'PENDING', 'place', place, 'since', time, 'accepted', time}
    local function add(name, value)
        fields[#fields + 1], fields[#fields + 2] = name, value
    end
    if callback_uri ~= '' then
        add('callback_uri', callback_uri)
        add('receiver', endpoint)
    end
    if idempotency ~= '' then
        add('idempotency', idempotency)
        redis.call('HSET', idempotency, 'task', task_id, 'body', body)
        redis.call('PERSIST', idempotency)
    end
    if prefer == 'wait' or (prefer == '' and (mode[1] or mode_set) == 'sync') then
        add('awaited', ARGV[10])
    end
    redis.call('HSET', task, unpack(fields))
    redis.call('ZADD', WAITING, place, task_id)
    redis.call('LPUSH', QUEUE, message)
end
return {'ACCEPTED', task_id, mode[1], mode[2]}
