#!lua flags=allow-oom
-- Renew the claims of a worker, and those noted by its polling process. Requeue what the worker does not know of (its
-- reply was lost, or went with a broken connection), what it claimed before a restart, and what no worker renews.
-- After a gap without renewals, as Redis or all workers were away, every owner gets another lease to renew first.
-- Without any claims, nothing is written.
-- @include requeue
-- KEYS: 1 the note of the polling process
-- ARGV: 1 owner, 2 prefix of the owners on this host, 3 known claims as JSON, task id by delivery tag, 4 lease in
--       seconds, 5 seconds that a claim of its own may be unknown to a worker, 6 deliveries until a task is a dead
--       letter, 7 seconds to keep a result, 8 poll session, 9 seconds to keep the note
-- Answer: {ids of the worker's tasks that were cancelled, {id, reason, ...} of tasks that became dead letters}

local owner, host, known, lease = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), tonumber(ARGV[4])
local unknown_for, max_deliveries, ttl = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local time = now()

local session, _, noted = unpack(cjson.decode(redis.call('GET', KEYS[1]) or '[]'))
-- The note of an earlier session is void.
if session and session == tonumber(ARGV[8]) then
    redis.call('EXPIRE', KEYS[1], ARGV[9])
    for _, task_id in ipairs(noted) do
        known[task_id] = task_id
    end
end

local function renew_all()
    for _, tag in ipairs(redis.call('ZRANGE', UNACKED_INDEX, 0, -1)) do
        redis.call('ZADD', UNACKED_INDEX, time, tag)
    end
end

local function check_claim(tag, holder)
    if holder == owner and known[tag] then
        redis.call('ZADD', UNACKED_INDEX, time, tag)
        return
    end
    local age = time - tonumber(redis.call('ZSCORE', UNACKED_INDEX, tag) or 0)
    if holder == owner then
        if age > unknown_for then
            requeue(tag, false, max_deliveries, ttl)
        end
    elseif age > lease or string.sub(holder, 1, #host) == host then
        requeue(tag, true, max_deliveries, ttl)
    end
end

local claims = redis.call('HGETALL', OWNERS)
if #claims > 0 then
    local last = tonumber(redis.call('GET', LAST_RECLAIM) or 0)
    -- Also when the clock was set back.
    if time - last > lease / 2 or time < last then
        renew_all()
    end
    redis.call('SET', LAST_RECLAIM, time)
end
for i = 1, #claims, 2 do
    check_claim(claims[i], claims[i + 1])
end

local cancelled = {}
for _, task_id in pairs(known) do
    if redis.call('HGET', TASK .. task_id, 'status') == 'REVOKED' then
        table.insert(cancelled, task_id)
    end
end
announce_completions()
return {cancelled, dead_lettered}
